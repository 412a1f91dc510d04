// The candidates of RetinaNet's post-processing: of every level of every image the topk best scores
// above the threshold, from raw maps in either layout.
//
// A candidate is one 64-bit key: how far its score's bits lie below those of 1, then its flat index
// within the level. Keys are distinct, and their order is that of falling scores, ties by index. So
// the topk best are the topk smallest keys, and ties at the cut are nothing special.
//
// The first pass reads every logit once. One comparison with the boundary logit of the threshold
// decides; what passes gets a sigmoid and goes, in any order, into the buffer of its level and
// image, and into a histogram of the keys' first digit. Where the buffer was large enough, that was
// all. Elsewhere the histogram says in which bin the cut lies (radix_select.cuh), and the next pass
// re-reads that level's logits: it fills the buffer with the keys up to the end of the bin, if they
// fit, or counts the bin's next digit. The boundary moves up with the cut, so that the later passes
// are as quick as if that had been the threshold. How many passes there can be follows from the
// lengths of keys and buffers alone: each narrows the range by kDigitBits bits, and a range of
// kSlack keys fits. Continuous scores need two, a level of equal logits all.
//
// Bytes: one read of the logits, and another of the overflowing levels for each pass. Operations: 2
// per logit; some 100 per candidate, of which 32 lanes share the atomic addition.
#pragma once

#include "../score_boundary.h"
#include "grid.cuh"
#include "radix_select.cuh"

namespace focaldet {
namespace {

constexpr int kCollectThreads = 256, kCollectPacks = 16, kCollectBatch = 4;
constexpr int kRereadChunks = 4;  // to a block of a later pass, for which there is mostly no need
constexpr int kNarrowThreads = 256;
constexpr int kMostPasses = 8;
constexpr int64_t kMostLogits = int64_t{1} << 32;  // of a level and image: indices have 32 bits

template <class T>
constexpr int64_t kChunk = int64_t{kCollectThreads} * kCollectPacks * Pack<T>::size;

// The levels, as kernel parameters.
struct Plan {
  struct Level {
    int64_t first_key;  // of the first image's buffer; the others follow
    int64_t first_row;  // among an image's candidates
    unsigned logits;    // of an image
    unsigned positions;
    unsigned topk, capacity;  // topk: at most the logits
    int index_bits;
    bool planar;  // else channels last
  };
  int levels;
  unsigned channels, classes;
  float boundary;
  int64_t images, rows;  // rows: of an image
  Level level[kMaxLevels];
};

constexpr uint32_t kOneBits = 0x3f800000;  // of 1.0f; the largest score has the lowest rank

FD_HD uint64_t candidate_key(float score, unsigned index, int index_bits) {
  return static_cast<uint64_t>(kOneBits - float_to_bits(score)) << index_bits | index;
}
FD_HD float key_score(uint64_t key, int index_bits) {
  return bits_to_float(kOneBits - static_cast<uint32_t>(key >> index_bits));
}
FD_HD unsigned key_index(uint64_t key, int index_bits) {
  return static_cast<unsigned>(key & ((uint64_t{1} << index_bits) - 1));
}

// All keys of logits from this boundary on.
FD_HD KeyRange keys_from(float boundary, int index_bits) {
  const float lowest = boundary == boundary ? sigmoid(boundary) : 1.0f;
  return whole_range(static_cast<uint64_t>(kOneBits - float_to_bits(lowest) + 1) << index_bits);
}

// The lowest logit whose score a key of the range, or one before it, may have.
__device__ __forceinline__ float range_boundary(const KeyRange& range, int index_bits) {
  const float lowest = key_score(range.end - 1, index_bits);
  return boundary_logit(lowest > 0 ? bits_to_float(float_to_bits(lowest) - 1) : -1.0f);
}

// What a pass does with the keys below the end of the range: `both` is the first one's.
enum class Stage { both, count, collect, done };

struct Selection {
  KeyRange range;
  float boundary;
  unsigned collected;  // more than the capacity, if the buffer was too small
  Stage stage;
};

// By image and level: bins [kBins], and the buffers of the plan.
struct Workspace {
  Selection* selections;
  unsigned* bins;
  unsigned* open;  // [kMostPasses]: the selections that another pass is for, after each one
  uint64_t* keys;
};

__global__ void __launch_bounds__(kNarrowThreads)
    start_selection(const Plan plan, const Workspace work) {
  const int64_t problem = blockIdx.x;
  for (int i = threadIdx.x; i < kBins; i += kNarrowThreads) work.bins[problem * kBins + i] = 0;
  if (problem == 0 && threadIdx.x < kMostPasses) work.open[threadIdx.x] = 0;
  if (threadIdx.x == 0) {
    const int bits = plan.level[problem % plan.levels].index_bits;
    work.selections[problem] = {keys_from(plan.boundary, bits), plan.boundary, 0, Stage::both};
  }
}

// Where a warp's candidates go.
struct Sink {
  const KeyRange& range;
  unsigned* bins;       // of the block
  unsigned* collected;  // of the level and image, as is the buffer
  uint64_t* buffer;
  unsigned capacity;
  bool counting, collecting;

  // By all lanes; the key of those that take part.
  __device__ __forceinline__ void put(bool taken, uint64_t key) {
    if (taken && counting && range.holds(key)) atomicAdd(&bins[range.bin(key)], 1u);
    if (!collecting) return;
    const unsigned lanes = __ballot_sync(kAllLanes, taken);
    if (lanes == 0) return;
    const int lane = threadIdx.x % kWarp, leader = __ffs(static_cast<int>(lanes)) - 1;
    unsigned slot = 0;
    if (lane == leader) slot = atomicAdd(collected, static_cast<unsigned>(__popc(lanes)));
    slot = __shfl_sync(kAllLanes, slot, leader);
    collecting = slot < capacity;  // if it was full before, it has been told so now
    slot += __popc(lanes & ((1u << lane) - 1));
    if (taken && slot < capacity) buffer[slot] = key;
  }
};

template <class T>
struct LogitMaps {
  const T* level[kMaxLevels];
  int64_t first_chunk[kMaxLevels + 1];  // by level, image and place
};

template <class T>
__device__ __forceinline__ bool any_reaches(const Pack<T>& logits, float boundary) {
  bool any = false;
#pragma unroll
  for (int i = 0; i < Pack<T>::size; ++i) any |= static_cast<float>(logits.items[i]) >= boundary;
  return any;
}

// A bit for each row of a batch, of which each has a pack for every thread of the block: does the
// thread's hold a logit that reaches the boundary? Those of a whole batch are under way at once.
// Behind the end there are zeros.
template <class T>
__device__ __forceinline__ unsigned packs_with_hits(const T* in, int64_t first, int64_t n,
                                                    float boundary) {
  constexpr int kRow = kCollectThreads * Pack<T>::size;
  const int64_t own = first + static_cast<int>(threadIdx.x) * Pack<T>::size;
  unsigned hits = 0;
  if (aligned(in) && first + kCollectBatch * kRow <= n) {
    Pack<T> packs[kCollectBatch];
#pragma unroll
    for (int j = 0; j < kCollectBatch; ++j)
      packs[j] = *reinterpret_cast<const Pack<T>*>(in + own + j * kRow);
#pragma unroll
    for (int j = 0; j < kCollectBatch; ++j) hits |= unsigned{any_reaches(packs[j], boundary)} << j;
  } else {
#pragma unroll 1
    for (int j = 0; j < kCollectBatch; ++j) {
      hits |= unsigned{any_reaches(load(in, own + j * kRow, n), boundary)} << j;
    }
  }
  return hits;
}

template <class T>
__global__ void __launch_bounds__(kCollectThreads)
    collect_candidates(const Plan plan, const LogitMaps<T> maps, int pass, const Workspace work) {
  constexpr int kSize = Pack<T>::size, kGroups = kWarp / kSize;
  FD_SHARED(unsigned, bins, kBins);
  if (pass > 0 && work.open[pass - 1] == 0) return;
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  for (int64_t chunk = blockIdx.x; chunk < maps.first_chunk[plan.levels]; chunk += gridDim.x) {
    int l = 0;
    while (chunk >= maps.first_chunk[l + 1]) ++l;
    const Plan::Level& level = plan.level[l];
    const int64_t per_image = (maps.first_chunk[l + 1] - maps.first_chunk[l]) / plan.images;
    const int64_t image = (chunk - maps.first_chunk[l]) / per_image;
    const int64_t begin = (chunk - maps.first_chunk[l] - image * per_image) * kChunk<T>;
    const int64_t problem = image * plan.levels + l, n = level.logits;
    Selection* const selection = work.selections + problem;
    const Stage stage = selection->stage;
    if (stage == Stage::done) continue;
    const KeyRange range = selection->range;
    const float boundary = selection->boundary;
    const T* const in = maps.level[l] + image * n;
    Sink sink{range,
              bins,
              &selection->collected,
              work.keys + level.first_key + image * level.capacity,
              level.capacity,
              stage != Stage::collect,
              stage != Stage::count};
    for (int i = threadIdx.x; i < kBins; i += kCollectThreads) bins[i] = 0;
    __syncthreads();

    for (int batch = 0; batch < kCollectPacks; batch += kCollectBatch) {
      const int64_t row = begin + int64_t{batch} * kCollectThreads * kSize;
      if (row >= n) break;
      const unsigned hits = packs_with_hits(in, row, n, boundary);
      if (!__any_sync(kAllLanes, hits != 0)) continue;
      // Hits are rare: the warp takes kGroups of these packs at a time, a logit to a lane.
      for (int j = 0; j < kCollectBatch; ++j) {
        const int64_t first = row + (j * kCollectThreads + warp * kWarp) * kSize;
        unsigned packs = __ballot_sync(kAllLanes, has(hits, j));
        while (packs != 0) {
          unsigned own = packs;
          for (int group = lane / kSize; group > 0; --group) own &= own - 1;
#pragma unroll
          for (int group = 0; group < kGroups; ++group) packs &= packs - 1;
          const int64_t place = first + (__ffs(static_cast<int>(own)) - 1) * kSize + lane % kSize;
          bool taken = own != 0 && place < n;
          uint64_t key = 0;
          if (taken) {
            const float logit = static_cast<float>(in[place]);
            unsigned index = static_cast<unsigned>(place);
            if (level.planar) {
              const unsigned channel = index / level.positions;
              index = (index - channel * level.positions) * plan.channels + channel;
            }
            key = candidate_key(sigmoid(logit), index, level.index_bits);
            taken = logit >= boundary && key < range.end;
          }
          sink.put(taken, key);
        }
      }
    }
    __syncthreads();
    if (stage == Stage::collect) continue;
    for (int i = threadIdx.x; i < kBins; i += kCollectThreads) {  // and zeroed by the same thread
      if (bins[i] != 0) atomicAdd(&work.bins[problem * kBins + i], bins[i]);
    }
  }
}

// Between two passes: a block for each level of each image.
__global__ void __launch_bounds__(kNarrowThreads)
    narrow_selection(const Plan plan, int pass, const Workspace work) {
  if (pass > 0 && work.open[pass - 1] == 0) return;
  const int64_t problem = blockIdx.x;
  const Plan::Level& level = plan.level[problem % plan.levels];
  const Selection selection = work.selections[problem];
  if (selection.stage == Stage::done) return;
  __syncthreads();
  if (selection.stage == Stage::collect ||
      (selection.stage == Stage::both && selection.collected <= level.capacity)) {
    if (threadIdx.x == 0) work.selections[problem].stage = Stage::done;
    return;
  }
  unsigned* const bins = work.bins + problem * kBins;
  unsigned below_end;
  const KeyRange range = narrowed<kNarrowThreads>(selection.range, bins, level.topk, &below_end);
  for (int i = threadIdx.x; i < kBins; i += kNarrowThreads) bins[i] = 0;
  if (threadIdx.x == 0) {
    work.selections[problem] = {range, range_boundary(range, level.index_bits), 0,
                                below_end <= level.capacity ? Stage::collect : Stage::count};
    atomicAdd(&work.open[pass], 1u);
  }
}

}  // namespace
}  // namespace focaldet
