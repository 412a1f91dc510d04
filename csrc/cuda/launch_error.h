// What a launch that CUDA refused tells its caller.
#pragma once

#include <cuda_runtime.h>

#include <stdexcept>
#include <string>

#include "../stable.h"

#ifndef FOCALDET_CUDA_ARCHS  // setup.py says them; others who build on these headers need not
#define FOCALDET_CUDA_ARCHS "unknown"
#endif

namespace focaldet {

// What to do where this build has no code for the GPU ("no kernel image"), or its driver is older
// than the CUDA that made it; empty for any other error.
inline std::string way_out(cudaError_t error) {
  const bool no_code =
      error == cudaErrorNoKernelImageForDevice || error == cudaErrorInvalidDeviceFunction;
  const bool old_driver =
      error == cudaErrorInsufficientDriver || error == cudaErrorUnsupportedPtxVersion;
  if (!no_code && !old_driver) return "";
  std::string gpu = "this GPU", architecture;
  int device = 0;
  cudaDeviceProp properties{};
  if (cudaGetDevice(&device) == cudaSuccess &&
      cudaGetDeviceProperties(&properties, device) == cudaSuccess) {
    const auto capability =
        std::to_string(properties.major) + "." + std::to_string(properties.minor);
    gpu = std::string(properties.name) + " (" + capability + ")";
    architecture = "TORCH_CUDA_ARCH_LIST=" + capability + " ";
  }
  const std::string cuda =
      std::to_string(CUDART_VERSION / 1000) + "." + std::to_string(CUDART_VERSION % 1000 / 10);
  const std::string build = " in the source folder with `FOCALDET_CUDA=1 " + architecture +
                            "pip install " + (old_driver ? "--no-build-isolation " : "") + ".`";
  return "focaldet: this build (CUDA " + cuda + ", architectures " FOCALDET_CUDA_ARCHS ") " +
         (old_driver ? "is newer than the driver of " + gpu +
                           ": update the driver, or, beside a torch and an nvcc of its CUDA, build"
                     : "has no code for " + gpu + ": build") +
         build + ". CUDA: " + cudaGetErrorString(error);
}

inline void check_launch(cudaError_t error) {
  if (error == cudaSuccess) return;
  static_cast<void>(cudaGetLastError());  // it has been noticed; no later check shall find it
  const std::string explained = way_out(error);
  if (!explained.empty()) throw std::runtime_error(explained);
  STD_CUDA_CHECK(error);
}

}  // namespace focaldet
