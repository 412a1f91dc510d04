// Anchors as a tensor on CUDA: one launch for all levels, one write of 16 bytes per anchor, no read
// of device memory.
#include "grid.cuh"

namespace focaldet {
namespace {

constexpr int kThreads = 256;

__global__ void __launch_bounds__(kThreads) write_anchors(const GridParams params, float* anchors) {
  Pack<float>* cells = dynamic_shared<Pack<float>>();
  stage_cells(params, cells);
  __syncthreads();
  for (int64_t i = thread_index(); i < params.total; i += thread_count()) {
    const Box<float> box = anchor_at(params, cells, GridPlace(params, i));
    store(anchors, 4 * i, 4 * params.total, Pack<float>{{box.x1, box.y1, box.x2, box.y2}});
  }
}

Tensor generate_anchors(const Tensor& device_of, const std::vector<double>& cell_anchors,
                        const std::vector<int64_t>& feature_sizes,
                        const std::vector<int64_t>& strides, double offset) {
  const AnchorTable table(cell_anchors, feature_sizes, strides, offset);
  const GridParams params = grid_params(table, "generate_anchors");
  Tensor anchors = empty({table.count(), 4}, ScalarType::Float, device_of);
  // Four anchors to a thread pay for the copy of the cells.
  OnDevice(device_of).launch(
      {blocks_for(table.count(), 4 * kThreads), kThreads, params.cell_bytes()}, write_anchors,
      params, anchors.mutable_data_ptr<float>());
  return anchors;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(focaldet, CUDA, m) {
  m.impl("generate_anchors", TORCH_BOX(&generate_anchors));
}

}  // namespace focaldet
