// The focal loss of raw class maps against the anchors' labels, with its gradient in the same pass.
//
// Channels last, an image is rows of classes and is read as focal_loss.cu reads them. Planar, a
// thread takes a pack of positions of one cell anchor, reads their labels once and goes through 16
// classes with them. Where an image or a plane does not start at a multiple of 16 bytes, packs are
// read and written element by element.
// Bytes, with S the size of the maps: 2 S, S without gradients, and 4 per anchor for its label (in
// planar maps once for 16 classes, from the cache). Operations as in focal_loss.cu.
#pragma once

#include "focal_terms.cuh"
#include "maps.cuh"

namespace focaldet {

constexpr int kPacksPerThread = 16;  // and classes, in planar maps

template <class T>
int64_t focal_blocks(int64_t positions, int64_t cells, int64_t classes, bool planar) {
  constexpr int64_t kSize = Pack<T>::size;
  if (!planar) {
    return blocks_for(positions * cells * classes, kSize * kFocalThreads * kPacksPerThread);
  }
  const int64_t packs = (positions + kSize - 1) / kSize;
  return blocks_for(cells * ((classes + kPacksPerThread - 1) / kPacksPerThread) * packs,
                    kFocalThreads);
}

// alpha, or a table by class.
template <class C>
struct FocalBalance {
  C alpha;
  const C* class_alpha;
};

// The loss of one pack of any kind, with its gradient times `factor`. hot(i) and counted(i) speak
// of its elements, as does alpha_of(i) where there is a table.
template <class T, class Power, class Hot, class Counted, class AlphaOf>
__device__ __forceinline__ compute_t<T> mixed_pack(const Pack<T>& inputs, const Power& power,
                                                   const FocalBalance<compute_t<T>>& balance,
                                                   compute_t<T> factor, Hot&& hot,
                                                   Counted&& counted, AlphaOf&& alpha_of,
                                                   Pack<T>& gradient) {
  using C = compute_t<T>;
  const HardWeights<C> common(balance.alpha);
  C loss = 0;
#pragma unroll
  for (int i = 0; i < Pack<T>::size; ++i) {
    const HardWeights<C> weights =
        balance.class_alpha != nullptr ? HardWeights<C>(alpha_of(i)) : common;
    const C weight = counted(i) ? weights.of(hot(i)) : C(0);
    const FocalTerm<C> term = focal_hard(static_cast<C>(inputs.items[i]), C(hot(i)), power);
    loss += weigh(weight, term.loss);
    gradient.items[i] = static_cast<T>(weigh(weight * factor, term.grad));
  }
  return loss;
}

// The weight of background, where it is one number that factors out; else 0. (As a weight, 0 would
// not silence infinite losses.)
template <class C>
__device__ __forceinline__ C background_weight(const FocalBalance<C>& balance) {
  return balance.class_alpha != nullptr ? C(0) : HardWeights<C>(balance.alpha).negative;
}

template <class T, class Power, bool kGradient>
__device__ __forceinline__ double packed_focal(const Maps<T>& maps, const MapBlock& at,
                                               const int32_t* labels, const Power& power,
                                               const FocalBalance<compute_t<T>>& balance,
                                               compute_t<T> factor) {
  using C = compute_t<T>;
  constexpr int kSize = Pack<T>::size, kStride = kFocalThreads * kSize;
  constexpr int kMost = kStride * kPacksPerThread;
  const typename Maps<T>::Level& level = maps.level[at.level];
  const int classes = static_cast<int>(maps.channels);
  const int64_t all_rows = level.positions * maps.cells, total = all_rows * classes;
  const int64_t begin = at.block * kMost, begin_row = begin / classes;
  // From here on relative to the block's first element, or row.
  const T* in = level.in + (at.image * total + begin);
  T* out = kGradient ? level.out + (at.image * total + begin) : nullptr;
  labels += begin_row;
  const int n = static_cast<int>(total - begin < kMost ? total - begin : kMost);
  const int rows = static_cast<int>(all_rows - begin_row < kMost ? all_rows - begin_row : kMost);
  const int column = static_cast<int>(begin - begin_row * classes);
  const int own = static_cast<int>(threadIdx.x) * kSize;
  const C background = background_weight(balance);
  double sum = 0;
  for_each_pack(
      own, kStride, n, classes, Place(column + own, classes),
      [&](int first, const Place<int>& place) {
        const Pack<T> inputs = load(in, first, n);
        const PackLabels<kSize> said(place, rows, classes, [&](int row) { return labels[row]; });
        int k = place.column - 1;
        const auto alpha_of = [&](int) {  // called for one element after the other
          k = k + 1 == classes ? 0 : k + 1;
          return balance.class_alpha[k];
        };
        Pack<T> gradient;
        const auto all = [](int) { return true; };
        const C loss =
            said.plain() && background != C(0)
                ? background * background_pack(inputs, power, background * factor, all, gradient)
                : mixed_pack(
                      inputs, power, balance, factor, [&](int i) { return has(said.hot, i); },
                      [&](int i) { return has(said.counted, i); }, alpha_of, gradient);
        sum += static_cast<double>(loss);
        if (kGradient) store(out, first, n, gradient);
      });
  return sum;
}

template <class T, class Power, bool kGradient>
__device__ __forceinline__ double planar_focal(const Maps<T>& maps, const MapBlock& at,
                                               const int32_t* labels, const Power& power,
                                               const FocalBalance<compute_t<T>>& balance,
                                               compute_t<T> factor) {
  using C = compute_t<T>;
  constexpr int kSize = Pack<T>::size;
  const typename Maps<T>::Level& level = maps.level[at.level];
  const int64_t positions = level.positions, packs = (positions + kSize - 1) / kSize;
  const int64_t chunks = (maps.channels + kPacksPerThread - 1) / kPacksPerThread;
  const int64_t unit = at.block * kFocalThreads + threadIdx.x;
  const int64_t chunk_of_cell = unit / packs, first = (unit - chunk_of_cell * packs) * kSize;
  const int64_t cell = chunk_of_cell / chunks;
  const bool inside = cell < maps.cells;
  const int n =
      inside ? static_cast<int>(positions - first < kSize ? positions - first : kSize) : 0;

  labels += cell * positions + first;
  // Bits by position, for registers are what limits how many threads there can be.
  unsigned counted_bits = 0, background_bits = 0;
#pragma unroll
  for (int i = 0; i < kSize; ++i) {
    const int32_t label = i < n ? labels[i] : kBetween;
    if (label >= kBackground) counted_bits |= 1u << i;
    if (label == kBackground) background_bits |= 1u << i;
  }
  const bool foreground = counted_bits != background_bits;
  // Ignored anchors lie strewn among the others. A warp that met packs with and without them would
  // go through the arithmetic twice: all of it takes the kind that looks.
  const bool plain = __all_sync(kAllLanes, background_bits == (1u << kSize) - 1 || !inside);
  if (!inside) return 0;
  const C background = background_weight(balance), slope = background * factor;
  int k = static_cast<int>(chunk_of_cell - cell * chunks) * kPacksPerThread;
  const int left = static_cast<int>(maps.channels) - k;
  const int k_end = k + (left < kPacksPerThread ? left : kPacksPerThread);
  const int64_t start = ((at.image * maps.cells + cell) * maps.channels + k) * positions + first;
  const T* in = level.in + start;
  T* out = kGradient ? level.out + start : nullptr;
  const auto all = [](int) { return true; };
  const auto counted = [&](int i) { return has(counted_bits, i); };
  double sum = 0;
  for (; k < k_end; ++k, in += positions) {
    const Pack<T> inputs = load(in, 0, n);
    unsigned hot_bits = 0;
    if (foreground) {
#pragma unroll
      for (int i = 0; i < kSize; ++i) {
        if (i < n && labels[i] == k) hot_bits |= 1u << i;
      }
    }
    Pack<T> gradient;
    C loss;
    if (hot_bits != 0 || background == C(0)) {
      loss = mixed_pack(
          inputs, power, balance, factor, [&](int i) { return has(hot_bits, i); }, counted,
          [&](int) { return balance.class_alpha[k]; }, gradient);
    } else if (plain) {
      loss = background * background_pack(inputs, power, slope, all, gradient);
    } else {
      loss = background * background_pack(inputs, power, slope, counted, gradient);
    }
    sum += static_cast<double>(loss);
    if (kGradient) {
      store(out, 0, n, gradient);
      out += positions;
    }
  }
  return sum;
}

// labels [images, anchors] as MatchResults; partial sums by block, divided already.
template <class T, class Power, bool kGradient>
__global__ void __launch_bounds__(kFocalThreads, (kFocalBlocksPerProcessor<T, Power>))
    map_focal(const Maps<T> maps, const Power power, const int32_t* labels,
              const FocalBalance<compute_t<T>> balance, const LossScale<compute_t<T>> scale,
              double* partial) {
  const MapBlock at(maps);
  const compute_t<T> factor = kGradient ? scale.gradient(at.image) : compute_t<T>(1);
  labels += at.image * maps.anchors + maps.level[at.level].first;
  const double sum =
      has(maps.planar, at.level)
          ? planar_focal<T, Power, kGradient>(maps, at, labels, power, balance, factor)
          : packed_focal<T, Power, kGradient>(maps, at, labels, power, balance, factor);
  const double total = block_sum<kFocalThreads>(sum);
  if (threadIdx.x == 0) {
    partial[blockIdx.x] = total / static_cast<double>(scale.divisor(at.image));
  }
}

}  // namespace focaldet
