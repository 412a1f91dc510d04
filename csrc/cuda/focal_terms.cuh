// What the sigmoid focal losses of logits and of whole maps share: how a thread walks over rows of
// classes in packs, what labels say about a pack, and the sum over blocks.
#pragma once

#include "../math/focal.h"
#include "launch.cuh"

namespace focaldet {

constexpr int kFocalThreads = 256;
// At least: room for 64 registers, 128 where a number takes two; 80 for packs of 8 and any gamma.
template <class T, class Power>
constexpr int kFocalBlocksPerProcessor =
    sizeof(T) == 8 ? 2 : (sizeof(T) == 2 && !std::is_same_v<Power, IntegerPower<2>> ? 3 : 4);

template <class Index>
struct Place {
  Index row, column;
  __device__ __forceinline__ Place(Index element, Index classes)
      : row(element / classes), column(element - row * classes) {}
};

// body(first element, its place) for the packs at first, first + stride, ..., before end. `place`
// is that of the first; then row and class are carried along, without divisions.
template <class Index, class Body>
__device__ __forceinline__ void for_each_pack(Index first, Index stride, Index end, Index classes,
                                              Place<Index> place, Body&& body) {
  const Place<Index> step(stride, classes);
  for (; first < end; first += stride) {
    body(first, place);
    place.row += step.row;
    place.column += step.column;
    if (place.column >= classes) {
      place.column -= classes;
      ++place.row;
    }
  }
}

// What the labels say about a pack of kSize elements, bit by element. Found before the arithmetic,
// which then has no branches. As a rule a pack lies in one row.
template <int kSize>
struct PackLabels {
  unsigned hot = 0;      // the class of its row
  unsigned counted = 0;  // its row is not ignored

  __device__ __forceinline__ bool plain() const {
    return hot == 0 && (counted & ((1u << kSize) - 1)) == (1u << kSize) - 1;
  }

  // label_of(row): its class, -1 for background; anything else is ignored.
  template <class Index, class LabelOf>
  __device__ __forceinline__ PackLabels(const Place<Index>& place, Index rows, Index classes,
                                        LabelOf&& label_of) {
    Index row = place.row, start = -place.column;  // positions relative to the pack
    if (place.column + kSize <= classes && row < rows) {
      const Index label = label_of(row), position = start + label;
      counted = label >= -1 && label < classes ? ~0u : 0u;
      hot = label >= 0 && position >= 0 && position < kSize ? 1u << position : 0u;
      return;
    }
    for (; start < kSize && row < rows; ++row, start += classes) {
      const Index label = label_of(row);
      if (label < -1 || label >= classes) continue;
      const Index end = start + classes, position = start + label;
      const unsigned before = start > 0 ? (1u << start) - 1 : 0;
      counted |= (end < kSize ? (1u << end) - 1 : ~0u) & ~before;
      if (label >= 0 && position >= 0 && position < kSize) hot |= 1u << position;
    }
  }
};

// The compiler drops whichever of the two its caller does not use.
template <class C>
__device__ __forceinline__ FocalTerm<C> weigh(C weight, const FocalTerm<C>& term) {
  return {weigh(weight, term.loss), weigh(weight, term.grad)};
}

// Hard targets make two weights of alpha.
template <class C>
struct HardWeights {
  C negative, positive;
  __device__ __forceinline__ explicit HardWeights(C alpha)
      : negative(focal_weight(FocalForm::focal, C(0), alpha)),
        positive(focal_weight(FocalForm::focal, C(1), alpha)) {}
  __device__ __forceinline__ C of(bool hot) const { return hot ? positive : negative; }
};

// A pack of background, as nearly all are, but for elements that are not counted: returns the loss,
// and sets the gradient times `slope`. What kernels spend their time in.
template <class T, class Power, class Counted>
__device__ __forceinline__ compute_t<T> background_pack(const Pack<T>& inputs, const Power& power,
                                                        compute_t<T> slope, Counted&& counted,
                                                        Pack<T>& gradient) {
  using C = compute_t<T>;
  C loss = 0;
#pragma unroll
  for (int i = 0; i < Pack<T>::size; ++i) {
    const FocalTerm<C> term = focal_hard(static_cast<C>(inputs.items[i]), C(0), power);
    loss += counted(i) ? term.loss : C(0);
    gradient.items[i] = static_cast<T>(counted(i) ? term.grad * slope : C(0));
  }
  return loss;
}

namespace {

// By one block: what the blocks before it have left.
template <class C>
__global__ void __launch_bounds__(kFocalThreads)
    add_partial_sums(const double* partial, int64_t n, const C* divisor, C* out) {
  double sum = 0;
  for (int64_t i = threadIdx.x; i < n; i += kFocalThreads) sum += partial[i];
  const double total = block_sum<kFocalThreads>(sum);
  if (threadIdx.x == 0) {
    *out = static_cast<C>(divisor == nullptr ? total : total / static_cast<double>(*divisor));
  }
}

}  // namespace
}  // namespace focaldet
