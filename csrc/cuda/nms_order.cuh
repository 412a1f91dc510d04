// The order in which boxes are suppressed: by image, group, falling score and row; and where a
// group begins and ends in it.
//
// Two stable sorts (aten::sort) with a kernel before each: sort_keys turns scores into keys, and
// groups_by_score fetches the group ids in the order of the first sort, which the second one keeps
// within a group. Where all boxes are one group, the first is enough. lay_out then fetches the
// boxes, so that the kernels behind read them in order.
//
// Bytes per candidate: 24 for its key, 28 for its group id, 52 to lay it out (float32; 84 in
// float64), and about 100 for each sort.
#pragma once

#include <limits>

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

// Negated scores, so that an ascending stable sort gives falling scores and ties by row, and NaN,
// which sorts last, for what is no candidate. The difference from 0 makes -0.0 equal to 0.0 and the
// quiet NaN is the positive one: right for sorts by bit pattern, too. On the way it clears the
// words and fills `out` with -1.
template <class T>
__global__ void __launch_bounds__(kOrderThreads)
    sort_keys(const T* boxes, const T* scores, int64_t n, bool all_scores, T threshold, T* keys,
              Word* words, int64_t num_words, int64_t* out, int64_t num_out) {
  for (int64_t i = thread_index(); i < n; i += thread_count()) {
    const T score = scores[i];
    const bool candidate =
        (all_scores ? score == score : score > threshold) && !has_nan(load_box(boxes, i));
    keys[i] = candidate ? T(0) - score : std::numeric_limits<T>::quiet_NaN();
  }
  for (int64_t i = thread_index(); i < num_words; i += thread_count()) words[i] = 0;
  for (int64_t i = thread_index(); i < num_out; i += thread_count()) out[i] = -1;
}

// Of what is no candidate, the last id there is: candidates of that group come before it, too,
// since they did by score.
template <class T>
__global__ void __launch_bounds__(kOrderThreads)
    groups_by_score(const int64_t* groups, const T* keys, const int64_t* rows, int64_t n,
                    int64_t total, int64_t* sorted) {
#pragma unroll 1  // as each thread has one: more divisions at a time would spill
  for (int64_t i = thread_index(); i < total; i += thread_count()) {
    const bool candidate = keys[i] == keys[i];
    sorted[i] = candidate ? groups[i / n * n + rows[i]] : std::numeric_limits<int64_t>::max();
  }
}

// Images of n candidates each. By rank, which is by falling score: keys and rows. By place, which
// is by group and then by rank: groups and ranks; null where all boxes are one group, and then the
// place is the rank.
template <class T>
struct Order {
  int64_t n;
  const T* keys;
  const int64_t* rows;
  const int64_t* groups;
  const int64_t* ranks;

  __device__ Order of_image(int64_t image) const {
    const int64_t first = image * n;
    const bool grouped = groups != nullptr;
    return {n, keys + first, rows + first, grouped ? groups + first : nullptr,
            grouped ? ranks + first : nullptr};
  }
  __device__ int64_t rank(int64_t place) const { return ranks == nullptr ? place : ranks[place]; }
};

template <class T>
__global__ void __launch_bounds__(kOrderThreads)
    lay_out(const Order<T> order, const T* boxes, int64_t total, T* by_place) {
  for (int64_t i = thread_index(); i < total; i += thread_count()) {
    const int64_t first = i / order.n * order.n;  // of the image
    const int64_t rank = order.ranks == nullptr ? i : first + order.ranks[i];
    const bool candidate = order.keys[rank] == order.keys[rank];
    store_box(by_place, i, candidate ? load_box(boxes, first + order.rows[rank]) : no_box<T>());
  }
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
