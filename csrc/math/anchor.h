// Anchors are never stored: an anchor is computed from its index.
//
// Flat order: levels in order, then y, x, and the cell anchor a. A level with feature size H x W
// and stride (sy, sx) shifts its A cell anchors, which are centred near the origin, to
// ((x + offset) sx, (y + offset) sy).
#pragma once

#include "box.h"

namespace focaldet {

struct AnchorLevel {
  int64_t height, width;
  float stride_y, stride_x;
  float offset;
};

// How far position x, or y, moves a cell anchor.
FD_HD float anchor_shift(int64_t position, float offset, float stride) {
  return (static_cast<float>(position) + offset) * stride;
}

FD_HD Box<float> anchor_at(const AnchorLevel& level, int64_t y, int64_t x, const float* cell) {
  const float shift_x = anchor_shift(x, level.offset, level.stride_x);
  const float shift_y = anchor_shift(y, level.offset, level.stride_y);
  return {cell[0] + shift_x, cell[1] + shift_y, cell[2] + shift_x, cell[3] + shift_y};
}

}  // namespace focaldet
