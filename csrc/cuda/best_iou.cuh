// The first step of matching (match.cu): each box's best IoU with any anchor, a block per box.
//
// On a grid only the positions whose anchors can touch the box are looked at, a rectangle on every
// level, from the coarsest level on; a level whose anchors are too small for what was found before
// is left out, so that the box of a whole image does not meet every anchor. Of a tensor of anchors,
// all. About 25 operations per pair looked at.
#pragma once

#include "match.cuh"

namespace focaldet {
namespace {

constexpr int kBoxThreads = 256;

struct Span {
  int64_t first, end;
};

// One axis of a level, seen from a box from `low` to `high`.
struct Axis {
  Span span;    // of the positions whose anchors can reach into the open interval
  double size;  // at least that of any anchor
};

// Generous by one position on either side, and by more than what float arithmetic rounds away of an
// anchor. A NaN, of infinite numbers, leaves nothing out.
__device__ __forceinline__ Axis look_along(double low, double high, const Pack<float>* cells,
                                           int64_t per_position, int axis, double stride,
                                           double offset, int64_t positions) {
  float cell_low = cells[0].items[axis], cell_high = cells[0].items[axis + 2], longest = 0;
  for (int64_t a = 0; a < per_position; ++a) {
    const float from = cells[a].items[axis], to = cells[a].items[axis + 2];
    cell_low = min_(cell_low, from);  // a NaN stays out, unless it is the first
    cell_high = max_(cell_high, to);
    longest = max_(longest, to - from);
  }
  const double count = static_cast<double>(positions);
  const double rounded = 1e-6 * (std::fabs(low) + std::fabs(high) + std::fabs(cell_low) +
                                 std::fabs(cell_high) + (count + std::fabs(offset)) * stride);
  const double first = (low - cell_high - rounded) / stride - offset - 1;
  const double last = (high - cell_low + rounded) / stride - offset + 1;
  Axis result{{0, positions}, longest + rounded};
  if (!(stride > 0)) return result;
  if (first > 0) result.span.first = first < count ? static_cast<int64_t>(first) : positions;
  if (last < count - 1) result.span.end = last >= 0 ? static_cast<int64_t>(last) + 1 : 0;
  return result;
}

// The largest of a block's numbers, none of them negative, in every thread; `bits` are 0 before.
__device__ __forceinline__ float block_max(float value, unsigned* bits) {
#pragma unroll
  for (int offset = kWarp / 2; offset > 0; offset /= 2) {
    value = max_(value, __shfl_down_sync(kAllLanes, value, offset));
  }
  if (threadIdx.x % kWarp == 0) atomicMax(bits, float_to_bits(value));
  __syncthreads();
  return bits_to_float(*bits);
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
  FD_SHARED(Axis, axes, 2 * kMaxLevels);
  FD_SHARED(unsigned, best_bits, kMaxLevels);
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
  if (thread < kMaxLevels) best_bits[thread] = 0;
  stage_cells(grid, cells);
  __syncthreads();
  if (p.rows != nullptr) {
    for (int64_t i = thread; i < p.count; i += kBoxThreads) visit(box_row(p.rows, i, p.count));
    most = block_max(most, best_bits);
  } else {
    if (thread < 2 * grid.levels) {
      const AnchorLevel& at = grid.level[thread / 2].grid;
      const Pack<float>* of_level = cells + thread / 2 * grid.cells;
      axes[thread] = thread % 2 == 0 ? look_along(gt.x1, gt.x2, of_level, grid.cells, 0,
                                                  at.stride_x, at.offset, at.width)
                                     : look_along(gt.y1, gt.y2, of_level, grid.cells, 1,
                                                  at.stride_y, at.offset, at.height);
    }
    __syncthreads();
    for (int l = grid.levels - 1; l >= 0; --l) {
      const Axis &xs = axes[2 * l], &ys = axes[2 * l + 1];
      // IoU <= anchor's area / box's area, give or take what is rounded.
      if (1.0001 * xs.size * ys.size < static_cast<double>(most) * gt_area) continue;
      for_each_anchor(grid.level[l].grid, cells + l * grid.cells, static_cast<int>(grid.cells),
                      ys.span, xs.span, visit);
      most = block_max(most, best_bits + l);
    }
  }
  if (thread == 0) best[t] = most;
}

}  // namespace
}  // namespace focaldet
