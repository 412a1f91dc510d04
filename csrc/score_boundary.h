// The threshold on scores as one on logits: sigmoid() is monotone, so a score exceeds a threshold
// exactly if its logit reaches a boundary, and one comparison decides instead of an exponential and
// a division.
#pragma once

#include "math/special.h"

namespace focaldet {

// The smallest float whose sigmoid exceeds the threshold, or NaN, which no logit reaches, if none
// does; found by bisection over the floats in order, in 33 sigmoids.
FD_HD float boundary_logit(float threshold) {
  const auto ordered = [](uint32_t rank) {  // the larger the rank, the larger the float
    return bits_to_float((rank & 0x80000000u) != 0 ? rank & 0x7fffffffu : ~rank);
  };
  uint32_t low = 0x007fffffu, high = 0xff800000u;  // -infinity and infinity
  if (!(sigmoid(ordered(high)) > threshold)) return std::numeric_limits<float>::quiet_NaN();
  while (low < high) {
    const uint32_t middle = low + (high - low) / 2;
    if (sigmoid(ordered(middle)) > threshold) {
      high = middle;
    } else {
      low = middle + 1;
    }
  }
  return ordered(low);
}

}  // namespace focaldet
