// Anchors as a tensor, for those who need one. One write of 16 bytes per anchor, and no read but of
// one row for each level, which stays in the cache: rows differ in the shift of y alone.
#include <algorithm>
#include <vector>

#include "../anchor_grid.h"
#include "../stable.h"
#include "simd.h"

namespace focaldet {
namespace {

// A row of positions, [x1, y1, x2, y2] for each anchor, before the shift of y.
class Row {
 public:
  Row(const AnchorTable::Level& level, int64_t cells)
      : grid_(level.grid), first_(level.first), anchors_(grid_.width * cells) {
    values_.resize(4 * anchors_);
    float* to = values_.data();
    for (int64_t x = 0; x < grid_.width; ++x) {
      const float shift = anchor_shift(x, grid_.offset, grid_.stride_x);
      for (int64_t a = 0; a < cells; ++a, to += 4) {
        const float* cell = level.cell(a);
        to[0] = cell[0] + shift;
        to[1] = cell[1];
        to[2] = cell[2] + shift;
        to[3] = cell[3];
      }
    }
  }

  // Those of the anchors [begin, end) that are of this level.
  void write(int64_t begin, int64_t end, float* out) const {
    begin = std::max(begin, first_);
    end = std::min(end, first_ + grid_.height * anchors_);
    while (begin < end) {
      const int64_t y = (begin - first_) / anchors_, skipped = (begin - first_) % anchors_;
      const int64_t n = std::min(end - begin, anchors_ - skipped);
      shifted(values_.data() + 4 * skipped, 4 * n, anchor_shift(y, grid_.offset, grid_.stride_y),
              out + 4 * begin);
      begin += n;
    }
  }

 private:
  static void shifted(const float* from, int64_t n, float shift, float* to) {
    const float shifts[4] = {0, shift, 0, shift};
    vectorised([&]() FD_SIMD_LAMBDA {
      float lanes[16];
      for (int64_t lane = 0; lane < 16; ++lane) lanes[lane] = shifts[lane % 4];
      for (int64_t i = 0; i + 16 <= n; i += 16) {
#pragma GCC unroll 1  // GCC unrolls so short a loop before it could make one vector of it
        for (int64_t lane = 0; lane < 16; ++lane) to[i + lane] = from[i + lane] + lanes[lane];
      }
    });
    for (int64_t i = n / 16 * 16; i < n; ++i) to[i] = from[i] + shifts[i % 4];
  }

  AnchorLevel grid_;
  int64_t first_, anchors_;
  std::vector<float> values_;
};

Tensor generate_anchors(const Tensor& device_of, const std::vector<double>& cell_anchors,
                        const std::vector<int64_t>& feature_sizes,
                        const std::vector<int64_t>& strides, double offset) {
  const AnchorTable table(cell_anchors, feature_sizes, strides, offset);
  Tensor anchors = empty({table.count(), 4}, ScalarType::Float, device_of);
  float* out = anchors.mutable_data_ptr<float>();
  std::vector<Row> levels;
  for (const AnchorTable::Level& level : table.levels) levels.emplace_back(level, table.cells);
  torch::stable::parallel_for(0, table.count(), 8192, [&](int64_t begin, int64_t end) {
    for (const Row& level : levels) level.write(begin, end, out);
  });
  return anchors;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(focaldet, CPU, m) {
  m.impl("generate_anchors", TORCH_BOX(&generate_anchors));
}

}  // namespace focaldet
