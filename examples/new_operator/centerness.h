// How far from the middle of its box a point lies: FCOS's centerness (Tian et al. 2019, equation
// 3). Host and device, the CPU's loops and the kernel, all call this one function.
#pragma once

#include <cmath>

#include "math/box.h"

namespace focaldet {

// The nearer side over the farther one: 1 in the middle, 0 on a side, outside, or for a NaN.
template <class T>
FD_HD T balance_of(T one, T other) {
  const bool inside = (one > T(0)) & (other > T(0));
  return inside ? min_(one, other) / max_(one, other) : T(0);
}

template <class T>
FD_HD T centerness(T x, T y, const Box<T>& box) {
  return std::sqrt(balance_of(x - box.x1, box.x2 - x) * balance_of(y - box.y1, box.y2 - y));
}

}  // namespace focaldet
