// What Soft-NMS (Bodla et al. 2017) does to the score of a box that a kept one overlaps, the same
// bits on the CPU and on CUDA, as every operation is rounded on its own; but for exp in double,
// which is the platform's.
#pragma once

#include "box.h"

namespace focaldet {

enum class SoftNms { linear, gaussian };

// Intersection over union; 0 where the union is not positive (degenerate, inverted or infinite
// boxes), or NaN.
template <class T>
FD_HD T soft_nms_overlap(const Box<T>& a, T area_a, const Box<T>& b, T area_b) {
  const T inter = intersection(a, b);
  const T joined = area_a + area_b - inter;
  return joined > T(0) ? inter / joined : T(0);
}

// The factor of the score.
template <class T>
FD_HD T soft_nms_weight(T overlap, T threshold, T sigma, SoftNms method) {
  if (method == SoftNms::linear) return overlap > threshold ? T(1) - overlap : T(1);
  return overlap > T(0) ? exp_(-(overlap * overlap) / sigma) : T(1);
}

}  // namespace focaldet
