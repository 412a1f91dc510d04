// The extension module with the CUDA kernels, which register themselves (*.cu), and the facts of
// this build.
#include <cuda_runtime_api.h>
#include <pybind11/pybind11.h>

#include <string>

namespace {

std::string dotted(int version) {  // 13020 is 13.2
  return std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10);
}

}  // namespace

PYBIND11_MODULE(_C_cuda, m) {
  m.doc() = "focaldet's CUDA operators, registered with torch on import, and how they were built.";
  m.attr("version") = FOCALDET_VERSION;
  m.attr("built_with_torch") = FOCALDET_TORCH;
  m.attr("cuda_version") = dotted(CUDART_VERSION);
  m.attr("archs") = FOCALDET_CUDA_ARCHS;
  m.attr("cudart") = "static";  // linked into this module
}
