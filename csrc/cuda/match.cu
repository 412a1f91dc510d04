// Anchors to ground truth on CUDA, for all images and levels in two launches and O(anchors + boxes)
// memory.
//
//   1. best_of_boxes (best_iou.cuh), a block per box: its best IoU with any anchor.
//   2. assign_anchors, a thread per image and anchor: the boxes of the image are staged through
//      shared memory, in order, but for those that do not touch the rectangle around the block's
//      anchors. The anchor's best box, whether a box has its own best here, and the thresholds
//      decide.
// An IoU above 0 needs an intersection with area, so nothing that is left out could have changed
// the result; where bg_iou <= 0 lets an IoU of 0 decide, step 2 leaves nothing out. Both steps ask
// the same function for an IoU, so that a box's best is found again by its bits.
// Bytes: 4 per image and anchor for the match (8 with labels), 20 per box and block. Operations:
// about 25 per pair looked at, and 5 per box and block.
#include "best_iou.cuh"

namespace focaldet {
namespace {

constexpr int kAnchorThreads = 256;

struct alignas(16) Candidate {
  Box<float> box;
  float area, best;
  int32_t row;  // within its image
};

__device__ __forceinline__ Box<float> around(const Box<float>& a, const Box<float>& b) {
  return {min_(a.x1, b.x1), min_(a.y1, b.y1), max_(a.x2, b.x2), max_(a.y2, b.y2)};
}

// The rectangle around the boxes of a block's threads, in every thread. Boxes with NaN count for
// nothing; where there is no other, the rectangle is inside out and touches nothing.
__device__ __forceinline__ Box<float> block_hull(const Box<float>& box) {
  FD_SHARED(Box<float>, hulls, kAnchorThreads / kWarp);
  constexpr float kFar = std::numeric_limits<float>::infinity();
  const Box<float> nothing{kFar, kFar, -kFar, -kFar};
  Box<float> hull = has_nan(box) ? nothing : box;
#pragma unroll
  for (int offset = kWarp / 2; offset > 0; offset /= 2) {
    hull = around(hull, {__shfl_down_sync(kAllLanes, hull.x1, offset),
                         __shfl_down_sync(kAllLanes, hull.y1, offset),
                         __shfl_down_sync(kAllLanes, hull.x2, offset),
                         __shfl_down_sync(kAllLanes, hull.y2, offset)});
  }
  if (threadIdx.x % kWarp == 0) hulls[threadIdx.x / kWarp] = hull;
  __syncthreads();
  hull = nothing;
#pragma unroll
  for (int warp = 0; warp < kAnchorThreads / kWarp; ++warp) hull = around(hull, hulls[warp]);
  return hull;
}

__device__ __forceinline__ bool touch(const Box<float>& a, const Box<float>& b) {
  return (a.x1 < b.x2) & (b.x1 < a.x2) & (a.y1 < b.y2) & (b.y1 < a.y2);
}

__global__ void __launch_bounds__(kAnchorThreads)
    assign_anchors(const GridParams grid, const MatchProblem p, const float* best,
                   const MatchResults results, int64_t blocks_per_image) {
  constexpr int kWarps = kAnchorThreads / kWarp;
  FD_SHARED(Candidate, tile, kAnchorThreads);
  FD_SHARED(int, warp_counts, kWarps);
  Pack<float>* cells = dynamic_shared<Pack<float>>();
  const int thread = threadIdx.x, lane = thread % kWarp, warp = thread / kWarp;
  const int64_t image = blockIdx.x / blocks_per_image;
  const int64_t i = (blockIdx.x - image * blocks_per_image) * kAnchorThreads + thread;
  const bool valid = i < p.count;
  const int64_t from = p.split(image), to = p.split(image + 1);

  constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();
  Box<float> anchor{kNaN, kNaN, kNaN, kNaN};
  int64_t label_slot = i;
  if (p.rows != nullptr) {
    if (valid) anchor = box_row(p.rows, i, p.count);
  } else {
    stage_cells(grid, cells);
    __syncthreads();
    if (valid) {
      const GridPlace place(grid, i);
      anchor = anchor_at(grid, cells, place);
      const GridParams::Level& level = grid.level[place.level];
      if (has(results.planar, place.level)) {
        const int64_t positions = level.grid.height * level.grid.width;
        label_slot = level.first + place.cell * positions + place.position;
      }
    }
  }

  int32_t match = kBackground, claimed = kBackground;
  float highest = -1;
  if (from < to) {
    const bool all = !(p.bg_iou > 0);
    const Box<float> hull = block_hull(anchor);
    const float anchor_area = area(anchor);
    for (int64_t first = from; first < to; first += kAnchorThreads) {
      Candidate own;
      bool near = false;
      if (first + thread < to) {
        own.box = box_row(p.boxes, first + thread, p.num_boxes);
        near = all || touch(hull, own.box);
      }
      const unsigned mask = __ballot_sync(kAllLanes, near);
      if (lane == 0) warp_counts[warp] = __popc(mask);
      __syncthreads();
      int slot = __popc(mask & ((1u << lane) - 1)), count = 0;
      for (int w = 0; w < kWarps; ++w) {
        if (w < warp) slot += warp_counts[w];
        count += warp_counts[w];
      }
      if (near) {
        own.area = area(own.box);
        own.best = best[first + thread];
        own.row = static_cast<int32_t>(first + thread - from);
        tile[slot] = own;
      }
      __syncthreads();
      for (int j = 0; j < count; ++j) {
        const Candidate& gt = tile[j];
        const float overlap = iou(gt.box, gt.area, anchor, anchor_area);
        if (overlap > highest) {  // the first of equals stays
          highest = overlap;
          match = gt.row;
        }
        if (overlap == gt.best && gt.best > 0) claimed = gt.row;
      }
    }
  }
  if (claimed >= 0) {
    if (p.low_quality == LowQuality::mmdet) match = claimed;
  } else if (highest < p.bg_iou || match < 0) {
    match = kBackground;
  } else if (!(highest >= p.fg_iou)) {
    match = kBetween;
  }

  if (valid && results.match != nullptr) results.match[image * p.count + i] = match;
  if (valid && results.labels != nullptr) {
    int64_t label = match;
    if (match >= 0) {
      label = results.gt_labels[from + match];
      if (label < 0 || label >= results.classes) label = kBetween;
    }
    results.labels[image * p.count + label_slot] = static_cast<int32_t>(label);
  }
  const int found = __popc(__ballot_sync(kAllLanes, valid && match >= 0));
  if (lane == 0 && found > 0) {
    atomicAdd(&results.per_image[image], static_cast<Count>(found));
    if (results.total != nullptr) atomicAdd(results.total, static_cast<Count>(found));
  }
}

}  // namespace

void match(const OnDevice& device, const GridParams& grid, const MatchProblem& problem,
           const MatchResults& results, const Tensor& like) {
  Tensor best = empty({problem.num_boxes}, ScalarType::Float, like);
  device.launch({std::max<int64_t>(1, problem.num_boxes), kBoxThreads, grid.cell_bytes()},
                best_of_boxes, grid, problem, best.mutable_data_ptr<float>(), results.per_image,
                results.total);
  const int64_t blocks = blocks_for(problem.count, kAnchorThreads);
  device.launch({problem.images * blocks, kAnchorThreads, grid.cell_bytes()}, assign_anchors, grid,
                problem, best.const_data_ptr<float>(), results, blocks);
}

namespace {

// Matches [B, n], unless only the counts [B] are wanted.
std::tuple<std::optional<Tensor>, Tensor> run(bool matches, const std::optional<Tensor>& anchors,
                                              const std::vector<double>& cell_anchors,
                                              const std::vector<int64_t>& feature_sizes,
                                              const std::vector<int64_t>& strides, double offset,
                                              const Tensor& gt_boxes, const Tensor& gt_splits,
                                              double fg_iou, double bg_iou,
                                              const std::string& low_quality) {
  check_ground_truth(gt_boxes, gt_splits, "match_anchors");
  check_device(gt_boxes, {anchors, gt_splits}, "match_anchors");
  const LowQuality rule = low_quality_rule(low_quality);
  const GridParams grid =
      grid_params(AnchorTable(cell_anchors, feature_sizes, strides, offset), "match_anchors");
  std::optional<Tensor> rows;
  if (anchors) {
    FD_CHECK(anchors->dim() == 2 && anchors->size(1) == 4, "match_anchors: anchors must be [n, 4]");
    rows = dense(*anchors, ScalarType::Float);
  }
  const Tensor boxes = dense(gt_boxes, ScalarType::Float), splits = dense(gt_splits);
  const MatchProblem problem{rows ? rows->const_data_ptr<float>() : nullptr,
                             rows ? rows->size(0) : grid.total,
                             boxes.const_data_ptr<float>(),
                             boxes.size(0),
                             splits.const_data_ptr<int64_t>(),
                             splits.size(0) - 1,
                             static_cast<float>(fg_iou),
                             static_cast<float>(bg_iou),
                             rule};
  MatchResults results{};
  Tensor counts = empty({problem.images}, ScalarType::Long, gt_boxes);
  results.per_image = counts_of(counts);
  std::optional<Tensor> match_rows;
  if (matches) {
    match_rows = empty({problem.images, problem.count}, ScalarType::Int, gt_boxes);
    results.match = match_rows->mutable_data_ptr<int32_t>();
  }
  match(OnDevice(gt_boxes), grid, problem, results, gt_boxes);
  return {match_rows, counts};
}

Tensor match_anchors(const std::optional<Tensor>& anchors, const std::vector<double>& cell_anchors,
                     const std::vector<int64_t>& feature_sizes, const std::vector<int64_t>& strides,
                     double offset, const Tensor& gt_boxes, const Tensor& gt_splits, double fg_iou,
                     double bg_iou, const std::string& low_quality) {
  return *std::get<0>(run(true, anchors, cell_anchors, feature_sizes, strides, offset, gt_boxes,
                          gt_splits, fg_iou, bg_iou, low_quality));
}

Tensor count_foreground(const std::optional<Tensor>& anchors,
                        const std::vector<double>& cell_anchors,
                        const std::vector<int64_t>& feature_sizes,
                        const std::vector<int64_t>& strides, double offset, const Tensor& gt_boxes,
                        const Tensor& gt_splits, double fg_iou, double bg_iou,
                        const std::string& low_quality) {
  return std::get<1>(run(false, anchors, cell_anchors, feature_sizes, strides, offset, gt_boxes,
                         gt_splits, fg_iou, bg_iou, low_quality));
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(focaldet, CUDA, m) {
  m.impl("match_anchors", TORCH_BOX(&match_anchors));
  m.impl("count_foreground", TORCH_BOX(&count_foreground));
}

}  // namespace focaldet
