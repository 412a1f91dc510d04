// The first step of matching (match.cu): each box's best IoU with any anchor, a block per box.
//
// On a grid only the positions whose anchors can touch the box are looked at: a rectangle on every
// level. Of a tensor of anchors, all. About 25 operations per pair looked at.
#pragma once

#include "match.cuh"

namespace focaldet {
namespace {

constexpr int kBoxThreads = 128;

struct Span {
  int64_t first, end;
};

// The positions, of `size`, at which cell anchors from `cell_low` to `cell_high` can reach into the
// open interval from `low` to `high`: generous by one on either side, and by more than what float
// arithmetic rounds away of an anchor. A NaN, of infinite numbers, leaves nothing out.
__device__ __forceinline__ Span reaching(double low, double high, double cell_low, double cell_high,
                                         double stride, double offset, int64_t size) {
  if (!(stride > 0)) return {0, size};
  const double span = (static_cast<double>(size) + std::fabs(offset)) * stride;
  const double slack =
      1e-6 * (std::fabs(low) + std::fabs(high) + std::fabs(cell_low) + std::fabs(cell_high) + span);
  const double first = (low - cell_high - slack) / stride - offset - 1;
  const double last = (high - cell_low + slack) / stride - offset + 1;
  const double count = static_cast<double>(size);
  return {first > 0 ? (first < count ? static_cast<int64_t>(first) : size) : 0,
          last < count - 1 ? (last >= 0 ? static_cast<int64_t>(last) + 1 : 0) : size};
}

// Calls visit(anchor) for this thread's share of a level's anchors within the spans: a warp per row
// of positions, whose cells lie in a line. No division but the first.
template <class Visit>
__device__ __forceinline__ void for_each_anchor(const AnchorLevel& level, const Pack<float>* cells,
                                                int per_position, const Span& ys, const Span& xs,
                                                Visit&& visit) {
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const int step_x = kWarp / per_position, step_a = kWarp % per_position;
  for (int64_t y = ys.first + warp; y < ys.end; y += kBoxThreads / kWarp) {
    int a = lane % per_position;
    int64_t x = xs.first + lane / per_position;
    while (x < xs.end) {
      visit(anchor_at(level, y, x, cells[a].items));
      x += step_x;
      a += step_a;
      if (a >= per_position) {
        a -= per_position;
        ++x;
      }
    }
  }
}

__global__ void __launch_bounds__(kBoxThreads)
    best_of_boxes(const GridParams grid, const MatchProblem p, float* best, Count* per_image,
                  Count* total) {
  FD_SHARED(Span, spans, 2 * kMaxLevels);
  FD_SHARED(float, warp_best, kBoxThreads / kWarp);
  Pack<float>* cells = dynamic_shared<Pack<float>>();
  // The next kernel counts.
  for (int64_t i = thread_index(); i < p.images; i += thread_count()) per_image[i] = 0;
  if (total != nullptr && thread_index() == 0) *total = 0;

  const int64_t t = blockIdx.x;
  const int thread = threadIdx.x;
  if (p.low_quality == LowQuality::none || p.count == 0 || t >= p.split(p.images)) {
    if (t < p.num_boxes && thread == 0) best[t] = 0;
    return;
  }
  const Box<float> gt = box_row(p.boxes, t, p.num_boxes);
  const float gt_area = area(gt);
  float most = 0;
  const auto visit = [&](const Box<float>& anchor) {
    most = max_(most, iou(gt, gt_area, anchor, area(anchor)));  // a NaN is not above anything
  };
  if (p.rows != nullptr) {
    for (int64_t i = thread; i < p.count; i += kBoxThreads) visit(box_row(p.rows, i, p.count));
  } else {
    stage_cells(grid, cells);
    if (thread < 2 * grid.levels) {
      const GridParams::Level& level = grid.level[thread / 2];
      const AnchorLevel& at = level.grid;
      spans[thread] = thread % 2 == 0 ? reaching(gt.y1, gt.y2, level.reach.y1, level.reach.y2,
                                                 at.stride_y, at.offset, at.height)
                                      : reaching(gt.x1, gt.x2, level.reach.x1, level.reach.x2,
                                                 at.stride_x, at.offset, at.width);
    }
    __syncthreads();
    for (int l = 0; l < grid.levels; ++l) {
      for_each_anchor(grid.level[l].grid, cells + l * grid.cells, static_cast<int>(grid.cells),
                      spans[2 * l], spans[2 * l + 1], visit);
    }
  }
#pragma unroll
  for (int offset = kWarp / 2; offset > 0; offset /= 2) {
    most = max_(most, __shfl_down_sync(kAllLanes, most, offset));
  }
  if (thread % kWarp == 0) warp_best[thread / kWarp] = most;
  __syncthreads();
  if (thread == 0) {
    for (int warp = 1; warp < kBoxThreads / kWarp; ++warp) most = max_(most, warp_best[warp]);
    best[t] = most;
  }
}

}  // namespace
}  // namespace focaldet
