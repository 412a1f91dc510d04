// The order in which boxes are suppressed: by image, group, falling score and row; and where a
// group begins and ends in it.
//
// Two stable sorts (aten::sort) with a kernel before each: sort_keys turns scores into keys, and
// groups_by_score fetches the group ids in the order of the first sort, which the second one keeps
// within a group. Where all boxes are one group, the first is enough. lay_out then fetches the
// boxes, so that the kernels behind read them in order. Of few candidates one block does it all
// (nms_block_order.cuh).
//
// Bytes per candidate: 24 for its key, 28 for its group id, 52 to lay it out (float32; 84 in
// float64), and about 100 for each sort.
#pragma once

#include <limits>
#include <tuple>

#include "boxes.cuh"

namespace focaldet {
namespace {

constexpr int kOrderThreads = 256;

// Takes the place of a box that is no candidate.
template <class T>
__device__ __forceinline__ Box<T> no_box() {
  constexpr T kNaN = std::numeric_limits<T>::quiet_NaN();
  return {kNaN, kNaN, kNaN, kNaN};
}

// The candidates: boxes [images, n, 4] without a NaN whose scores [images, n] are above the
// threshold, or, with all_scores, not NaN.
template <class T>
struct Candidates {
  const T* boxes;
  const T* scores;
  bool all_scores;
  T threshold;

  // Negated scores, so that an ascending stable sort gives falling scores and ties by row, and NaN,
  // which sorts last, for what is no candidate. The difference from 0 makes -0.0 equal to 0.0 and
  // the quiet NaN is the positive one: right for sorts by bit pattern, too.
  __device__ __forceinline__ T key(int64_t i) const {
    const T score = scores[i];
    const bool candidate =
        (all_scores ? score == score : score > threshold) && !has_nan(load_box(boxes, i));
    return candidate ? T(0) - score : std::numeric_limits<T>::quiet_NaN();
  }
};

// What the kernels behind expect: words of 0, and -1 in every place of the result.
struct Cleared {
  Word* words;
  int64_t num_words;
  int64_t* out;
  int64_t num_out;

  __device__ __forceinline__ void by_all_threads() const {
    for (int64_t i = thread_index(); i < num_words; i += thread_count()) words[i] = 0;
    for (int64_t i = thread_index(); i < num_out; i += thread_count()) out[i] = -1;
  }
};

template <class T>
__global__ void __launch_bounds__(kOrderThreads)
    sort_keys(const Candidates<T> candidates, int64_t n, T* keys, const Cleared cleared) {
  for (int64_t i = thread_index(); i < n; i += thread_count()) keys[i] = candidates.key(i);
  cleared.by_all_threads();
}

// The group of what is no candidate: candidates of that group come before it, too, since they did
// by score.
constexpr int64_t kLastGroup = std::numeric_limits<int64_t>::max();

template <class T>
__global__ void __launch_bounds__(kOrderThreads)
    groups_by_score(const int64_t* groups, const T* keys, const int64_t* rows, int64_t n,
                    int64_t total, int64_t* sorted) {
#pragma unroll 1  // as each thread has one: more divisions at a time would spill
  for (int64_t i = thread_index(); i < total; i += thread_count()) {
    const bool candidate = keys[i] == keys[i];
    sorted[i] = candidate ? groups[i / n * n + rows[i]] : kLastGroup;
  }
}

// Images of n candidates each. By rank, which is by falling score: rows. By place, which is by
// group and then by rank: groups and ranks; null where all boxes are one group, and then the place
// is the rank.
struct Order {
  int64_t n;
  const int64_t* rows;
  const int64_t* groups;
  const int64_t* ranks;

  __device__ Order of_image(int64_t image) const {
    const int64_t first = image * n;
    const bool grouped = groups != nullptr;
    return {n, rows + first, grouped ? groups + first : nullptr, grouped ? ranks + first : nullptr};
  }
  __device__ int64_t rank(int64_t place) const { return ranks == nullptr ? place : ranks[place]; }
};

template <class T>
__global__ void __launch_bounds__(kOrderThreads)
    lay_out(const Order order, const T* keys, const T* boxes, int64_t total, T* by_place) {
  for (int64_t i = thread_index(); i < total; i += thread_count()) {
    const int64_t first = i / order.n * order.n;  // of the image
    const int64_t rank = order.ranks == nullptr ? i : first + order.ranks[i];
    const bool candidate = keys[rank] == keys[rank];
    store_box(by_place, i, candidate ? load_box(boxes, first + order.rows[rank]) : no_box<T>());
  }
}

// The tensors of an Order, and the boxes by place: [images, n, 4].
struct Ordered {
  Tensor rows, boxes;
  std::optional<Tensor> groups, ranks;

  Order order() const {
    return {rows.size(1), rows.const_data_ptr<int64_t>(),
            groups ? groups->const_data_ptr<int64_t>() : nullptr,
            ranks ? ranks->const_data_ptr<int64_t>() : nullptr};
  }
};

// groups: int64 [images, n], dense, or none; `like` is [images, n] of their type.
template <class T>
Ordered order_by_sorts(const OnDevice& device, const Candidates<T>& candidates,
                       const std::optional<Tensor>& groups, const Tensor& like,
                       const Cleared& cleared) {
  const int64_t n = like.size(1), total = like.numel();
  const Grid each{blocks_for(total, kOrderThreads), kOrderThreads};
  Tensor keys = empty({like.size(0), n}, like.scalar_type(), like);
  device.launch(each, sort_keys<T>, candidates, total, keys.mutable_data_ptr<T>(), cleared);
  const auto [sorted_keys, rows] = stable_sort(keys);
  Ordered result{rows, empty({like.size(0), n, 4}, like.scalar_type(), like), {}, {}};
  if (groups) {
    Tensor ids = empty({like.size(0), n}, ScalarType::Long, like);
    device.launch(each, groups_by_score<T>, groups->const_data_ptr<int64_t>(),
                  sorted_keys.template const_data_ptr<T>(), rows.template const_data_ptr<int64_t>(),
                  n, total, ids.mutable_data_ptr<int64_t>());
    std::tie(result.groups, result.ranks) = stable_sort(ids);
  }
  device.launch(each, lay_out<T>, result.order(), sorted_keys.template const_data_ptr<T>(),
                candidates.boxes, total, result.boxes.mutable_data_ptr<T>());
  return result;
}

// The first place of [low, high] for which `found` holds, as it then does for all behind it; it is
// taken to hold at `high`. A warp together looks at 32 places at a time.
template <class Found>
__device__ __forceinline__ int64_t first_place(int64_t low, int64_t high, const Found& found) {
  const int lane = threadIdx.x % kWarp;
  while (low < high) {
    const int64_t step = (high - low + kWarp - 1) / kWarp;
    const int64_t place = low + lane * step;
    const unsigned votes = __ballot_sync(kAllLanes, place >= high || found(place));
    const int first = votes == 0 ? kWarp : __ffs(static_cast<int>(votes)) - 1;
    if (first < kWarp && low + first * step < high) high = low + first * step;
    if (first > 0) low += (first - 1) * step + 1;
  }
  return high;
}

}  // namespace
}  // namespace focaldet
