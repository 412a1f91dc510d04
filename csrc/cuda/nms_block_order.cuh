// The order of nms_order.cuh for images of few candidates: a block for each image sorts them twice
// (block_sort.cuh) and lays them out. One launch, where that file's way takes up to 35, which cost
// the host more than they cost the GPU.
//
// A key to sort by is one word: the score, or the group, above the row or the rank, which makes
// every key another and the sort stable. Bytes per candidate: 128, or 60 where all boxes are one
// group; comparisons: n log2(n)^2 / 4 a sort.
#pragma once

#include "block_sort.cuh"
#include "nms_order.cuh"

namespace focaldet {
namespace {

// Beyond twice as many (H200: 111 us for NMS of 4,096 boxes either way) one block takes longer for
// its n log2(n)^2 than the host for its launches.
constexpr int kRankBits = 11, kMostInBlock = 1 << kRankBits;
constexpr int kBlockOrderThreads = 1024;

// What unsigned numbers order as the floats themselves are; less than kNoCandidate.
__device__ __forceinline__ uint64_t ordered_word(float x) {
  const unsigned bits = float_to_bits(x);
  return bits >> 31 != 0 ? ~bits : bits | 1u << 31;
}
constexpr uint64_t kNoCandidate = 0xffffffff;

// A group as a word that leaves room for a rank.
constexpr int64_t kGroups = int64_t{1} << (62 - kRankBits);
__device__ __forceinline__ bool has_group_word(int64_t id) {
  return id >= -kGroups && id < kGroups;
}
__device__ __forceinline__ uint64_t group_word(int64_t id) {
  return static_cast<uint64_t>(id + kGroups);
}
constexpr uint64_t kNoGroup = 2 * kGroups;

// Arrays [images, n]; those of groups null where all boxes are one group. By row: groups. By rank:
// as Order, and groups. By place: as Order, and boxes.
struct BlockOrder {
  int64_t n;  // at most kMostInBlock
  Candidates<float> candidates;
  const int64_t* groups_by_row;
  int64_t* rows;
  int64_t* groups_by_rank;
  int64_t* groups;
  int64_t* ranks;
  float* boxes;
};

__global__ void __launch_bounds__(kBlockOrderThreads)
    order_in_block(const BlockOrder p, const Cleared cleared) {
  FD_SHARED(uint64_t, keys, kMostInBlock);
  FD_SHARED(unsigned, num_candidates, 1);
  const int64_t first = blockIdx.x * p.n;
  const auto n = static_cast<unsigned>(p.n);
  const bool grouped = p.groups_by_row != nullptr;
  int64_t* const rows = p.rows + first;
  int64_t* const groups = grouped ? p.groups_by_rank + first : nullptr;
  cleared.by_all_threads();
  if (threadIdx.x == 0) num_candidates[0] = 0;
  for (unsigned i = threadIdx.x; i < n; i += kBlockOrderThreads) {
    const float key = p.candidates.key(first + i);
    keys[i] = (key == key ? ordered_word(key) : kNoCandidate) << 32 | i;
  }
  block_sort(keys, n, [](uint64_t a, uint64_t b) { return a < b; });

  bool words = true;
  for (unsigned rank = threadIdx.x; rank < n; rank += kBlockOrderThreads) {
    const auto row = static_cast<unsigned>(keys[rank]);
    const auto is_candidate = [&](unsigned i) { return keys[i] >> 32 != kNoCandidate; };
    const bool candidate = is_candidate(rank);
    rows[rank] = row;
    if (candidate && (rank + 1 == n || !is_candidate(rank + 1))) num_candidates[0] = rank + 1;
    if (!grouped) continue;
    groups[rank] = candidate ? p.groups_by_row[first + row] : kLastGroup;
    words = words && (!candidate || has_group_word(groups[rank]));
  }
  words = __syncthreads_or(!words) == 0;
  if (grouped) {
    for (unsigned rank = threadIdx.x; rank < n; rank += kBlockOrderThreads) {
      const uint64_t word = rank < num_candidates[0] ? group_word(groups[rank]) : kNoGroup;
      keys[rank] = (words ? word << kRankBits : 0) | rank;
    }
    block_sort(keys, n, [=](uint64_t a, uint64_t b) {
      return words || groups[a] == groups[b] ? a < b : groups[a] < groups[b];
    });
  }
  for (unsigned place = threadIdx.x; place < n; place += kBlockOrderThreads) {
    const unsigned rank = grouped ? keys[place] & ((1u << kRankBits) - 1) : place;
    if (grouped) {
      p.ranks[first + place] = rank;
      p.groups[first + place] = groups[rank];
    }
    store_box(p.boxes, first + place,
              rank < num_candidates[0] ? load_box(p.candidates.boxes, first + rows[rank])
                                       : no_box<float>());
  }
}

// As order_by_sorts, of at most kMostInBlock candidates an image.
inline Ordered order_by_block(const OnDevice& device, const Candidates<float>& candidates,
                              const std::optional<Tensor>& groups, const Tensor& like,
                              const Cleared& cleared) {
  const int64_t images = like.size(0), n = like.size(1);
  const auto integers = [&] { return empty({images, n}, ScalarType::Long, like); };
  const auto of_groups = [&] { return groups ? std::optional(integers()) : std::nullopt; };
  const auto pointer = [](std::optional<Tensor>& tensor) {
    return tensor ? tensor->mutable_data_ptr<int64_t>() : nullptr;
  };
  std::optional<Tensor> groups_by_rank = of_groups();
  Ordered result{integers(), empty({images, n, 4}, ScalarType::Float, like), of_groups(),
                 of_groups()};
  const BlockOrder order{n,
                         candidates,
                         groups ? groups->const_data_ptr<int64_t>() : nullptr,
                         result.rows.mutable_data_ptr<int64_t>(),
                         pointer(groups_by_rank),
                         pointer(result.groups),
                         pointer(result.ranks),
                         result.boxes.mutable_data_ptr<float>()};
  device.launch({images, kBlockOrderThreads}, order_in_block, order, cleared);
  return result;
}

}  // namespace
}  // namespace focaldet
