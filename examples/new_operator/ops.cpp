// The schema. In focaldet itself this line would stand in csrc/ops.cpp, under the name focaldet.
#include "stable.h"

STABLE_TORCH_LIBRARY(focaldet_example, m) {
  m.def("centerness_targets(Tensor points, Tensor boxes) -> Tensor");
}
