// Anchors as a tensor, for those who need one. One write of 16 bytes per anchor and no read.
#include "../anchor_grid.h"
#include "../stable.h"

namespace focaldet {
namespace {

Tensor generate_anchors(const Tensor& device_of, const std::vector<double>& cell_anchors,
                        const std::vector<int64_t>& feature_sizes,
                        const std::vector<int64_t>& strides, double offset) {
  const AnchorTable table(cell_anchors, feature_sizes, strides, offset);
  Tensor anchors = empty({table.count(), 4}, ScalarType::Float, device_of);
  float* out = anchors.mutable_data_ptr<float>();
  for (const auto& level : table.levels) {
    float* first = out + 4 * level.first;
    const int64_t row = level.grid.width * table.cells;
    torch::stable::parallel_for(0, level.grid.height, 8, [&](int64_t begin, int64_t end) {
      for (int64_t y = begin; y < end; ++y) {
        float* box = first + 4 * y * row;
        for (int64_t x = 0; x < level.grid.width; ++x) {
          for (int64_t a = 0; a < table.cells; ++a, box += 4) {
            const Box<float> anchor = anchor_at(level.grid, y, x, level.cell(a));
            box[0] = anchor.x1;
            box[1] = anchor.y1;
            box[2] = anchor.x2;
            box[3] = anchor.y2;
          }
        }
      }
    });
  }
  return anchors;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(focaldet, CPU, m) {
  m.impl("generate_anchors", TORCH_BOX(&generate_anchors));
}

}  // namespace focaldet
