// Anchors as a tensor, for those who need one. One write of 16 bytes per anchor, and no read but of
// one row for each level, which stays in the cache: rows differ in the shift of y alone.
#include <vector>

#include "../anchor_grid.h"
#include "../stable.h"
#include "simd.h"

namespace focaldet {
namespace {

// A row of positions, [x1, y1, x2, y2] for each anchor, before the shift of y.
struct Row {
  AnchorLevel grid;
  int64_t first_row;
  float* out;
  std::vector<float> values;

  Row(const AnchorTable::Level& level, int64_t cells, int64_t before, float* anchors)
      : grid(level.grid), first_row(before), out(anchors + 4 * level.first) {
    values.reserve(4 * grid.width * cells);
    for (int64_t x = 0; x < grid.width; ++x) {
      const float shift = anchor_shift(x, grid.offset, grid.stride_x);
      for (int64_t a = 0; a < cells; ++a) {
        const float* cell = level.cell(a);
        values.insert(values.end(), {cell[0] + shift, cell[1], cell[2] + shift, cell[3]});
      }
    }
  }

  void write(int64_t y) const {
    const float shift = anchor_shift(y, grid.offset, grid.stride_y);
    const int64_t n = static_cast<int64_t>(values.size());
    const float* from = values.data();
    float* to = out + y * n;
    vectorised([&]() FD_SIMD_LAMBDA {
      FD_INDEPENDENT
      for (int64_t i = 0; i < n; i += 4) {
        to[i] = from[i];
        to[i + 1] = from[i + 1] + shift;
        to[i + 2] = from[i + 2];
        to[i + 3] = from[i + 3] + shift;
      }
    });
  }
};

Tensor generate_anchors(const Tensor& device_of, const std::vector<double>& cell_anchors,
                        const std::vector<int64_t>& feature_sizes,
                        const std::vector<int64_t>& strides, double offset) {
  const AnchorTable table(cell_anchors, feature_sizes, strides, offset);
  Tensor anchors = empty({table.count(), 4}, ScalarType::Float, device_of);
  std::vector<Row> levels;
  int64_t rows = 0;
  for (const AnchorTable::Level& level : table.levels) {
    if (level.grid.height == 0) continue;
    levels.emplace_back(level, table.cells, rows, anchors.mutable_data_ptr<float>());
    rows += level.grid.height;
  }
  torch::stable::parallel_for(0, rows, 16, [&](int64_t begin, int64_t end) {
    size_t l = 0;
    for (int64_t row = begin; row < end; ++row) {
      while (l + 1 < levels.size() && row >= levels[l + 1].first_row) ++l;
      levels[l].write(row - levels[l].first_row);
    }
  });
  return anchors;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(focaldet, CPU, m) {
  m.impl("generate_anchors", TORCH_BOX(&generate_anchors));
}

}  // namespace focaldet
