// The host's view of an anchor grid, from the flat lists of the schemas (ops.cpp).
#pragma once

#include <vector>

#include "math/anchor.h"
#include "stable.h"

namespace focaldet {

struct AnchorTable {
  static constexpr int64_t kMost = int64_t{1} << 58;  // anchors, of 16 bytes and K logits each

  struct Level {
    AnchorLevel grid;
    int64_t first;  // flat index of its first anchor
    const float* cells;
    const float* cell(int64_t a) const { return cells + 4 * a; }
  };

  int64_t cells = 0;  // anchors per position, A
  std::vector<Level> levels;

  AnchorTable(const std::vector<double>& cell_anchors, const std::vector<int64_t>& feature_sizes,
              const std::vector<int64_t>& strides, double offset)
      : values_(cell_anchors.begin(), cell_anchors.end()) {
    const int64_t n = static_cast<int64_t>(feature_sizes.size()) / 2;
    FD_CHECK(feature_sizes.size() % 2 == 0 && strides.size() == feature_sizes.size(),
             "anchors: a height and a width, and two strides, for every level");
    if (n > 0) cells = static_cast<int64_t>(cell_anchors.size()) / (4 * n);
    FD_CHECK(static_cast<int64_t>(cell_anchors.size()) == cells * 4 * n,
             "anchors: the same number of cell anchors on every level");
    for (int64_t i = 0; i < n; ++i) {
      const int64_t height = feature_sizes[2 * i], width = feature_sizes[2 * i + 1];
      FD_CHECK(height >= 0 && width >= 0, "anchors: sizes must not be negative");
      FD_CHECK(strides[2 * i] >= 0 && strides[2 * i + 1] >= 0,
               "anchors: strides must not be negative");
      FD_CHECK(height == 0 || cells == 0 || width <= (kMost - count_) / cells / height,
               "anchors: more of them than memory can address");
      const AnchorLevel grid{height, width, static_cast<float>(strides[2 * i]),
                             static_cast<float>(strides[2 * i + 1]), static_cast<float>(offset)};
      levels.push_back({grid, count_, values_.data() + 4 * cells * i});
      count_ += height * width * cells;
    }
  }
  AnchorTable(AnchorTable&&) = default;
  AnchorTable(const AnchorTable&) = delete;  // levels point into values_, which moves with them

  int64_t count() const { return count_; }

 private:
  std::vector<float> values_;
  int64_t count_ = 0;
};

}  // namespace focaldet
