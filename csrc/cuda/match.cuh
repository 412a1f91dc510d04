// Matching for its own operators and for the losses: two launches, see match.cu.
#pragma once

#include "../arguments.h"
#include "grid.cuh"

namespace focaldet {

constexpr int32_t kBackground = -1, kBetween = -2;

using Count = unsigned long long;  // what atomicAdd takes; int64 to torch

struct MatchProblem {
  const float* rows;  // anchors as a tensor [count, 4], or null: those of the grid
  int64_t count;
  const float* boxes;  // [num_boxes, 4]
  int64_t num_boxes;
  const int64_t* splits;  // [images + 1]
  int64_t images;
  float fg_iou, bg_iou;
  LowQuality low_quality;

  // Row `i` of the splits, where memory allows, whatever they hold.
  __device__ __forceinline__ int64_t split(int64_t i) const {
    const int64_t row = splits[i];
    return row < 0 ? 0 : (row > num_boxes ? num_boxes : row);
  }
};

// What is wanted; null: nothing.
struct MatchResults {
  int32_t* match;    // [images, count]
  Count* per_image;  // foreground, [images]; always
  Count* total;      // of all images

  // The classes that the matches mean: [images, count], -1 background, -2 ignored. Levels whose bit
  // is in `planar` are ordered by cell anchor, then position; the others as the anchors.
  int32_t* labels;
  const int64_t* gt_labels;
  int64_t classes;
  unsigned planar;
};

void match(const OnDevice& device, const GridParams& grid, const MatchProblem& problem,
           const MatchResults& results, const Tensor& like);

inline Count* counts_of(Tensor& tensor) {
  return reinterpret_cast<Count*>(tensor.mutable_data_ptr<int64_t>());
}

__device__ __forceinline__ Box<float> box_row(const float* boxes, int64_t row, int64_t rows) {
  const Pack<float> box = load(boxes, 4 * row, 4 * rows);
  return {box.items[0], box.items[1], box.items[2], box.items[3]};
}

}  // namespace focaldet
