// Sorting by one block.
#pragma once

#include "launch.cuh"

namespace focaldet {

constexpr int64_t kMostSorted = int64_t{1} << 30;

// A bitonic network whose merges begin with a reflection, so that smaller keys only ever move
// forward and any n will do without padding. What a merge compares at a distance below a warp's
// width goes on in registers.
namespace bitonic {

// One level between the lanes of a warp: each holds the key of place i, its partner that of place
// i ^ mask.
template <class Less>
__device__ __forceinline__ void level_of_warp(uint64_t& key, unsigned i, unsigned n, unsigned mask,
                                              Less&& less) {
  const unsigned partner = i ^ mask;
  const uint64_t other = __shfl_xor_sync(kAllLanes, key, static_cast<int>(mask));
  if (i < n && partner < n && (i < partner ? less(other, key) : less(key, other))) key = other;
}

// All merges up to a warp's width (whole), or the last levels of a longer one.
template <class Less>
__device__ __forceinline__ void merge_in_warps(uint64_t* keys, unsigned n, bool whole,
                                               Less&& less) {
  const unsigned lane = threadIdx.x % kWarp;
  for (unsigned base = threadIdx.x - lane; base < n; base += blockDim.x) {
    const unsigned i = base + lane;
    uint64_t key = i < n ? keys[i] : 0;
    for (unsigned width = whole ? 2 : kWarp; width <= kWarp; width *= 2) {
      level_of_warp(key, i, n, whole ? width - 1 : width / 2, less);
      for (unsigned stride = width / 4; stride > 0; stride /= 2) {
        level_of_warp(key, i, n, stride, less);
      }
    }
    if (i < n) keys[i] = key;
  }
}

}  // namespace bitonic

// The order of less(a, b), a total one, by the whole block of whole warps, in shared or global
// memory. n log2(n)^2 / 4 comparisons; barriers stand at both ends. n is at most kMostSorted.
template <class Less>
__device__ __forceinline__ void block_sort(uint64_t* keys, unsigned n, Less&& less) {
  __syncthreads();
  bitonic::merge_in_warps(keys, n, true, less);
  __syncthreads();
  for (unsigned width = 2 * kWarp; width < 2 * n; width *= 2) {
    for (unsigned stride = width / 2; stride >= kWarp; stride /= 2) {
      const bool reflect = stride == width / 2;
      const unsigned pairs = ((n + 2 * stride - 1) & ~(2 * stride - 1)) / 2;
      for (unsigned pair = threadIdx.x; pair < pairs; pair += blockDim.x) {
        const unsigned within = pair & (stride - 1), i = 2 * pair - within;
        const unsigned j = reflect ? i + 2 * (stride - within) - 1 : i + stride;
        if (j >= n) continue;
        const uint64_t a = keys[i], b = keys[j];
        if (less(b, a)) {
          keys[i] = b;
          keys[j] = a;
        }
      }
      __syncthreads();
    }
    bitonic::merge_in_warps(keys, n, false, less);
    __syncthreads();
  }
}

}  // namespace focaldet
