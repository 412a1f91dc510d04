// What both kernels take, checked for what memory safety needs; the wrapper explains more.
#pragma once

#include "arguments.h"

namespace focaldet {

inline void check_centerness(const Tensor& points, const Tensor& boxes) {
  FD_CHECK(points.dim() == 2 && points.size(1) == 2, "centerness_targets: points must be [N, 2]");
  FD_CHECK(boxes.dim() == 2 && boxes.size(1) == 4 && boxes.size(0) == points.size(0),
           "centerness_targets: boxes must be [N, 4], one for each point");
}

}  // namespace focaldet
