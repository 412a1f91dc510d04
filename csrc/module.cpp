// The extension module with the schemas and the CPU kernels, which register themselves when it is
// loaded (ops.cpp, cpu/).
#include "module.h"

#include "cpu/simd.h"

PyMODINIT_FUNC PyInit__C() {
  return focaldet::module_of_facts(
      "_C", "focaldet's CPU operators, registered with torch on import, and how they were built.",
      [] {
        return focaldet::Facts{{"version", FOCALDET_VERSION},
                               {"built_with_torch", FOCALDET_TORCH},
                               {"compiler", __VERSION__},
                               {"simd_level", focaldet::simd_name(focaldet::simd_level())}};
      });
}
