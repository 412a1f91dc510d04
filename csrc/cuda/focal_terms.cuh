// What the sigmoid focal losses of logits and of whole maps share: how a thread walks over rows of
// classes in packs, what labels say about a pack, and the sum over blocks.
#pragma once

#include "../math/focal.h"
#include "launch.cuh"

namespace focaldet {

constexpr int kFocalThreads = 256;
constexpr int kFocalBlocksPerProcessor = 4;  // at least: room for 64 registers

struct Place {
  int64_t row, column;
  __device__ Place(int64_t element, int64_t classes)
      : row(element / classes), column(element % classes) {}
};

// body(first element, its place) for the packs of `size` at first, first + stride, ..., before end.
// One division at the start; then row and class are carried along.
template <class Body>
__device__ __forceinline__ void for_each_pack(int64_t first, int64_t stride, int64_t end,
                                              int64_t classes, Body&& body) {
  Place place(first, classes);
  const Place step(stride, classes);
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
// which then has no branches: as a rule a pack lies in one row, and the loop runs once.
template <int kSize>
struct PackLabels {
  unsigned hot = 0;      // the class of its row
  unsigned counted = 0;  // its row is not ignored

  // label_of(row): its class, -1 for background; anything else is ignored.
  template <class LabelOf>
  __device__ __forceinline__ PackLabels(const Place& place, int64_t rows, int64_t classes,
                                        LabelOf&& label_of) {
    int64_t row = place.row, start = -place.column;  // positions relative to the pack
    for (; start < kSize && row < rows; ++row, start += classes) {
      const int64_t label = label_of(row);
      if (label < -1 || label >= classes) continue;
      const int64_t end = start + classes, position = start + label;
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

}  // namespace focaldet
