// The k smallest of many distinct 64-bit keys, in parts: the range that the k-th smallest lies in
// is narrowed digit by digit (a most-significant-digit radix select), until few enough keys are
// left to be put in order. The histogram of a digit is the caller's, who knows where the keys come
// from.
#pragma once

#include "block_sort.cuh"

namespace focaldet {

constexpr int kDigitBits = 11, kBins = 1 << kDigitBits;
constexpr int kSlackBits = 10, kSlack = 1 << kSlackBits;  // keys to put in order beyond k
constexpr int kTile = 4096;                               // in shared memory

// The keys in [low, end), in bins of 2^shift keys: at most kBins of them. At least k keys are less
// than end; `below`, fewer than k, are less than low.
struct KeyRange {
  uint64_t low, end;
  unsigned below;
  int shift;

  __device__ __forceinline__ bool holds(uint64_t key) const { return key >= low && key < end; }
  __device__ __forceinline__ int bin(uint64_t key) const {
    return static_cast<int>((key - low) >> shift);
  }
};

// The bits of a key below `end`.
FD_HD int key_bits(uint64_t end) {
  int bits = 0;
  for (uint64_t last = end - 1; last != 0; last >>= 1) ++bits;
  return bits;
}

// All keys below `end`.
FD_HD KeyRange whole_range(uint64_t end) {
  const int bits = key_bits(end);
  return {0, end, 0, bits > kDigitBits ? bits - kDigitBits : 0};
}

// The bin of the range that the k-th smallest key lies in, as a range, and the keys that are below
// its end. By the whole block; barriers stand at both ends.
template <int kThreads>
__device__ __forceinline__ KeyRange narrowed(const KeyRange& range, const unsigned* bins,
                                             unsigned k, unsigned* below_end) {
  constexpr int kOwn = kBins / kThreads;
  FD_SHARED(unsigned, warp_sums, kThreads / kWarp);
  FD_SHARED(unsigned, found, 2);  // the bin, and the keys before it
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const int first = static_cast<int>(threadIdx.x) * kOwn;
  __syncthreads();
  unsigned own = 0;
#pragma unroll
  for (int i = 0; i < kOwn; ++i) own += bins[first + i];
  unsigned before = own;  // with those of the lanes before; later, of all threads before
#pragma unroll
  for (int offset = 1; offset < kWarp; offset *= 2) {
    const unsigned other = __shfl_up_sync(kAllLanes, before, offset);
    if (lane >= offset) before += other;
  }
  if (lane == kWarp - 1) warp_sums[warp] = before;
  __syncthreads();
  before += range.below - own;
  for (int w = 0; w < warp; ++w) before += warp_sums[w];
  if (before < k && k <= before + own) {
    int bin = first;
    while (before + bins[bin] < k) before += bins[bin++];
    found[0] = bin;
    found[1] = before;
  }
  __syncthreads();
  const uint64_t low = range.low + (static_cast<uint64_t>(found[0]) << range.shift);
  const uint64_t end = low + (uint64_t{1} << range.shift);
  *below_end = found[1] + bins[found[0]];
  const KeyRange result{low, end < range.end ? end : range.end, found[1],
                        range.shift > kDigitBits ? range.shift - kDigitBits : 0};
  __syncthreads();
  return result;
}

// The min(k, count) smallest of the keys in a buffer in order, maybe followed by others: in `tile`
// [kTile], or in the buffer where k is too large for it. At least k keys are less than range.end,
// if there are more than kTile at all. By the whole block; bins [kBins] and taken [1] are shared.
template <int kThreads>
__device__ __forceinline__ const uint64_t* smallest_in_order(uint64_t* buffer, unsigned count,
                                                             KeyRange range, unsigned k,
                                                             uint64_t* tile, unsigned* bins,
                                                             unsigned* taken) {
  const auto ascending = [](uint64_t a, uint64_t b) { return a < b; };
  if (count > kTile && k > kTile - kSlack) {
    block_sort(buffer, count, ascending);
    return buffer;
  }
  unsigned below_end = count;
  while (below_end > kTile) {
    for (int i = threadIdx.x; i < kBins; i += kThreads) bins[i] = 0;
    __syncthreads();
    for (unsigned i = threadIdx.x; i < count; i += kThreads) {
      if (range.holds(buffer[i])) atomicAdd(&bins[range.bin(buffer[i])], 1u);
    }
    range = narrowed<kThreads>(range, bins, k, &below_end);
  }
  if (threadIdx.x == 0) *taken = 0;
  __syncthreads();
  for (unsigned i = threadIdx.x; i < count; i += kThreads) {
    if (buffer[i] < range.end) tile[atomicAdd(taken, 1u)] = buffer[i];
  }
  block_sort(tile, below_end, ascending);
  return tile;
}

}  // namespace focaldet
