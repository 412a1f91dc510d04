// The extension module with the CUDA kernels, which register themselves when it is loaded (*.cu).
#include "../module.h"

#include <cuda_runtime_api.h>

namespace {

std::string dotted(int version) {  // 13020 is 13.2
  return std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10);
}

}  // namespace

PyMODINIT_FUNC PyInit__C_cuda() {
  return focaldet::module_of_facts(
      "_C_cuda",
      "focaldet's CUDA operators, registered with torch on import, and how they were built.", [] {
        return focaldet::Facts{{"version", FOCALDET_VERSION},
                               {"built_with_torch", FOCALDET_TORCH},
                               {"cuda_version", dotted(CUDART_VERSION)},
                               {"archs", FOCALDET_CUDA_ARCHS},
                               {"cudart", "static"}};  // linked into this module
      });
}
