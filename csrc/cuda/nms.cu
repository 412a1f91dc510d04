// Exact greedy non-maximum suppression on CUDA, in linear memory and without host synchronisation
// (but for the length that nms and batched_nms return).
//
// The candidates of an image are sorted by falling score, ties by index, all groups together, and
// one block walks them in tiles of one candidate per thread:
//   1. the tile meets the boxes kept so far, staged through shared memory;
//   2. warp by warp, the tile's candidates settle who of them is kept, and the warps behind meet
//      those;
//   3. they join the kept list, which is the output, until it is full. The order is by score over
//      all groups, so the first max_detections kept are the best ones.
// One block walks an image whatever its size. Step 1 is nearly all of the work and has no order in
// itself: it could be spread over many blocks by a grid of its own.
//
// Bytes per candidate: 8 for its sort key, about 100 for the sort, 36 for the walk (56 in float64),
// and 32 per kept box and tile, from the second-level cache. Operations: about 10 per pair of a
// candidate and a box kept before it in the image, 30 if the two are of one group and overlap.
#include <limits>

#include "../arguments.h"
#include "../math/box.h"
#include "launch.cuh"
#include "nms.cuh"

namespace focaldet {
namespace {

constexpr int kKeyThreads = 256;
constexpr int kStaged = 128;  // kept boxes in shared memory at a time

template <class T>
constexpr int kTile = sizeof(T) == 4 ? 1024 : 512;  // as shared memory allows

// Sort keys: negated scores, so that an ascending stable sort gives falling scores and ties by
// index, and NaN, which sorts last, for what is no candidate. The difference from 0 makes -0.0
// equal to 0.0 and the quiet NaN is the positive one: right for sorts by bit pattern, too.
template <class T>
__global__ void __launch_bounds__(kKeyThreads)
    sort_keys(const T* scores, int64_t n, bool all_scores, T threshold, T* keys) {
  for (int64_t i = thread_index(); i < n; i += thread_count()) {
    const T score = scores[i];
    const bool candidate = all_scores ? score == score : score > threshold;
    keys[i] = candidate ? T(0) - score : std::numeric_limits<T>::quiet_NaN();
  }
}

template <class T>
struct alignas(16) Candidate {
  Box<T> box;
  T area;
  int64_t group;
};

// Images of n candidates each; keys and order as sorted; groups null where there is only one.
template <class T>
struct Walk {
  int64_t n, limit;
  const T* boxes;
  const int64_t* groups;
  const T* keys;
  const int64_t* order;
  T threshold;
  int64_t* kept;    // [images, limit], padded with -1
  int64_t* counts;  // [images]
};

template <class T>
__device__ __forceinline__ Candidate<T> candidate_at(const Walk<T>& walk, int64_t index) {
  T x[4];
#pragma unroll
  for (int i = 0; i < 4; i += Pack<T>::size) {
    const Pack<T> pack = load(walk.boxes, 4 * index + i, 4 * walk.n);
#pragma unroll
    for (int j = 0; j < Pack<T>::size; ++j) x[i + j] = pack.items[j];
  }
  const Box<T> box{x[0], x[1], x[2], x[3]};
  return {box, area(box), walk.groups == nullptr ? 0 : walk.groups[index]};
}

// Most pairs of a group do not touch, and then a quotient of 0 is all there is to compare.
template <class T>
__device__ __forceinline__ bool beats(const Candidate<T>& kept, const Candidate<T>& other,
                                      T threshold) {
  if (kept.group != other.group) return false;
  if (threshold >= T(0) && !(intersection(kept.box, other.box) > T(0))) return false;
  return suppresses(kept.box, kept.area, other.box, other.area, threshold);
}

// Which of a warp's candidates, in falling order of score by lane, are kept. Each knows its rivals,
// the lanes before it that would suppress it. Everyone without an undecided rival is decided at
// once, at least the first of all, so there are as many rounds as links in the longest chain.
__device__ __forceinline__ unsigned settle(bool alive, unsigned rivals, int lane) {
  unsigned kept = 0, open = __ballot_sync(kAllLanes, alive);
  while (open != 0) {
    const unsigned winners = __ballot_sync(kAllLanes, has(open, lane) && (rivals & open) == 0);
    kept |= winners;
    const bool beaten = (rivals & winners) != 0;
    open = __ballot_sync(kAllLanes, has(open & ~winners, lane) && !beaten);
  }
  return kept;
}

template <class T>
__global__ void __launch_bounds__(kTile<T>) greedy_walk(Walk<T> walk) {
  constexpr int kWarps = kTile<T> / kWarp;
  FD_SHARED(Candidate<T>, staged, kStaged);
  FD_SHARED(Candidate<T>, tile, kTile<T>);
  FD_SHARED(unsigned, winners, kWarps);
  const int64_t image = blockIdx.x;
  walk.boxes += 4 * image * walk.n;
  if (walk.groups != nullptr) walk.groups += image * walk.n;
  walk.keys += image * walk.n;
  walk.order += image * walk.n;
  walk.kept += image * walk.limit;
  const int thread = threadIdx.x, lane = thread % kWarp, warp = thread / kWarp;

  int64_t count = 0;  // of kept boxes, the same in every thread
  const auto candidate = [&](int64_t i) { return i < walk.n && walk.keys[i] == walk.keys[i]; };
  for (int64_t first = 0; count < walk.limit && candidate(first); first += kTile<T>) {
    bool alive = candidate(first + thread);
    const int64_t index = alive ? walk.order[first + thread] : 0;
    const Candidate<T> own = candidate_at(walk, index);
    alive = alive && !has_nan(own.box);
    tile[thread] = own;

    for (int64_t begin = 0; begin < count; begin += kStaged) {
      const int length = static_cast<int>(count - begin < kStaged ? count - begin : kStaged);
      if (thread < length) {
        staged[thread] = candidate_at(walk, walk.kept[begin + thread]);
      }
      __syncthreads();
      for (int i = 0; alive && i < length; ++i) alive = !beats(staged[i], own, walk.threshold);
      __syncthreads();
    }

    __syncwarp();
    unsigned rivals = 0;
    for (int i = 0; alive && i < lane; ++i) {
      if (beats(tile[warp * kWarp + i], own, walk.threshold)) rivals |= 1u << i;
    }
    for (int w = 0; w < kWarps && first + w * kWarp < walk.n && count < walk.limit; ++w) {
      if (warp == w) {
        const unsigned kept = settle(alive, rivals, lane);
        const int64_t slot = count + __popc(kept & ((1u << lane) - 1));
        if (has(kept, lane) && slot < walk.limit) walk.kept[slot] = index;
        if (lane == 0) winners[w] = kept;
      }
      __syncthreads();
      for (int i = 0; warp > w && alive && i < kWarp; ++i) {
        alive = !(has(winners[w], i) && beats(tile[w * kWarp + i], own, walk.threshold));
      }
      count += __popc(winners[w]);
    }
  }
  if (count > walk.limit) count = walk.limit;
  for (int64_t i = count + thread; i < walk.limit; i += kTile<T>) walk.kept[i] = -1;
  if (thread == 0) walk.counts[image] = count;
}

}  // namespace

std::tuple<Tensor, Tensor> suppress_images(const Tensor& boxes, const Tensor& scores,
                                           const std::optional<Tensor>& groups,
                                           double iou_threshold,
                                           std::optional<double> score_threshold, int64_t limit) {
  const int64_t images = scores.size(0), n = scores.size(1);
  const OnDevice device(boxes);
  Tensor kept = empty({images, limit}, ScalarType::Long, boxes);
  Tensor counts = empty({images}, ScalarType::Long, boxes);
  dispatch_nms(boxes, scores, [&](auto tag, ScalarType dtype) {
    using T = typename decltype(tag)::type;
    const Tensor b = dense(boxes, dtype), s = dense(scores, dtype);
    Tensor keys = empty({images, n}, dtype, boxes);
    device.launch({blocks_for(images * n, kKeyThreads), kKeyThreads}, sort_keys<T>,
                  s.template const_data_ptr<T>(), images * n, !score_threshold.has_value(),
                  static_cast<T>(rounded_as(scores, score_threshold.value_or(0))),
                  keys.template mutable_data_ptr<T>());
    const auto [sorted, order] = stable_sort(keys);
    const Walk<T> walk{n,
                       limit,
                       b.template const_data_ptr<T>(),
                       groups ? groups->template const_data_ptr<int64_t>() : nullptr,
                       sorted.template const_data_ptr<T>(),
                       order.template const_data_ptr<int64_t>(),
                       static_cast<T>(iou_threshold),
                       kept.template mutable_data_ptr<int64_t>(),
                       counts.template mutable_data_ptr<int64_t>()};
    device.launch({images, kTile<T>}, greedy_walk<T>, walk);
  });
  return {kept, counts};
}

namespace {

Tensor one_image(const Tensor& boxes, const Tensor& scores, const std::optional<Tensor>& groups,
                 double iou_threshold) {
  const auto batch = [](const Tensor& tensor) { return torch::stable::unsqueeze(tensor, 0); };
  const auto [kept, counts] =
      suppress_images(batch(boxes), batch(scores), groups ? std::optional(batch(*groups)) : groups,
                      iou_threshold, std::nullopt, boxes.size(0));
  // A copy of its own size: a view would hold on to all n.
  Tensor row = torch::stable::select(kept, 0, 0);
  return torch::stable::clone(torch::stable::narrow(row, 0, 0, item(counts)));
}

Tensor nms(const Tensor& boxes, const Tensor& scores, double iou_threshold) {
  check_nms(boxes, scores, std::nullopt, iou_threshold, "nms");
  check_device(boxes, {scores}, "nms");
  return one_image(boxes, scores, std::nullopt, iou_threshold);
}

Tensor batched_nms(const Tensor& boxes, const Tensor& scores, const Tensor& idxs,
                   double iou_threshold) {
  check_nms(boxes, scores, idxs, iou_threshold, "batched_nms");
  check_device(boxes, {scores, idxs}, "batched_nms");
  return one_image(boxes, scores, dense(idxs, ScalarType::Long), iou_threshold);
}

std::tuple<Tensor, Tensor> nms_padded(const Tensor& boxes, const Tensor& scores,
                                      const std::optional<Tensor>& labels, double iou_threshold,
                                      double score_threshold, int64_t max_detections) {
  check_nms_padded(boxes, scores, labels, iou_threshold, max_detections);
  check_device(boxes, {scores, labels}, "nms_padded");
  return suppress_images(boxes, scores, dense(labels, ScalarType::Long), iou_threshold,
                         score_threshold, max_detections);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(focaldet, CUDA, m) {
  m.impl("nms", TORCH_BOX(&nms));
  m.impl("batched_nms", TORCH_BOX(&batched_nms));
  m.impl("nms_padded", TORCH_BOX(&nms_padded));
}

}  // namespace focaldet
