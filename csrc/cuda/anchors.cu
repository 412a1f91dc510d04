// Anchors as a tensor on CUDA: one launch for all levels, one write of 16 bytes per anchor, no read
// of device memory. The grid travels as kernel parameters, so nothing is copied to the device.
#include "../anchor_grid.h"
#include "launch.cuh"

namespace focaldet {
namespace {

constexpr int kThreads = 256;
constexpr int kMaxLevels = 8;
constexpr int kMaxCells = 192;  // over all levels; keeps the parameters below 4 KB

// What AnchorTable holds, by value.
struct GridParams {
  struct Level {
    AnchorLevel grid;
    int64_t first;  // flat index of its first anchor
  };
  int64_t total, cells;  // anchors in all, anchors per position
  int levels;
  Level level[kMaxLevels];
  Pack<float> cell[kMaxCells];  // level by level
};
static_assert(sizeof(GridParams) <= 4096, "kernel parameters of every driver");

__global__ void __launch_bounds__(kThreads) write_anchors(const GridParams params, float* anchors) {
  // Lanes of a warp want different cell anchors, which parameter memory serves one at a time.
  Pack<float>* cells = dynamic_shared<Pack<float>>();
  for (int i = threadIdx.x; i < params.levels * params.cells; i += kThreads) {
    cells[i] = params.cell[i];
  }
  __syncthreads();
  for (int64_t i = thread_index(); i < params.total; i += thread_count()) {
    int l = 0;
    while (l + 1 < params.levels && i >= params.level[l + 1].first) ++l;
    const GridParams::Level& level = params.level[l];
    const int64_t position = (i - level.first) / params.cells;
    const int64_t a = (i - level.first) - position * params.cells;
    const int64_t y = position / level.grid.width, x = position - y * level.grid.width;
    const Pack<float>& cell = cells[l * params.cells + a];
    const Box<float> box = anchor_at(level.grid, y, x, cell.items);
    store(anchors, 4 * i, 4 * params.total, Pack<float>{{box.x1, box.y1, box.x2, box.y2}});
  }
}

Tensor generate_anchors(const Tensor& device_of, const std::vector<double>& cell_anchors,
                        const std::vector<int64_t>& feature_sizes,
                        const std::vector<int64_t>& strides, double offset) {
  const AnchorTable table(cell_anchors, feature_sizes, strides, offset);
  const int64_t levels = static_cast<int64_t>(table.levels.size());
  FD_CHECK(levels <= kMaxLevels && levels * table.cells <= kMaxCells,
           "generate_anchors: on CUDA at most ", kMaxLevels, " levels and ", kMaxCells,
           " cell anchors over all levels, not ", levels, " and ", levels * table.cells);
  GridParams params{table.count(), table.cells, static_cast<int>(levels), {}, {}};
  for (int64_t l = 0; l < levels; ++l) {
    const AnchorTable::Level& level = table.levels[l];
    params.level[l] = {level.grid, level.first};
    for (int64_t a = 0; a < table.cells; ++a) {
      std::copy_n(level.cell(a), 4, params.cell[l * table.cells + a].items);
    }
  }
  Tensor anchors = empty({table.count(), 4}, ScalarType::Float, device_of);
  const int64_t shared_bytes = levels * table.cells * static_cast<int64_t>(sizeof(Pack<float>));
  // Four anchors to a thread pay for the copy of the cells.
  OnDevice(device_of).launch({blocks_for(table.count(), 4 * kThreads), kThreads, shared_bytes},
                             write_anchors, params, anchors.mutable_data_ptr<float>());
  return anchors;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(focaldet, CUDA, m) {
  m.impl("generate_anchors", TORCH_BOX(&generate_anchors));
}

}  // namespace focaldet
