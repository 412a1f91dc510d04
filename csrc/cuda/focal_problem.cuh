// The terms of the sigmoid focal losses, pack by pack: what focal_loss.cu's kernels share.
#pragma once

#include "../arguments.h"
#include "focal_terms.cuh"

namespace focaldet {

// Rows of classes over dense memory, as cpu/focal_loss.cpp. Targets are labels (one per row) or
// values (one per element); the tables hold one factor per class, or are null.
template <class T>
struct FocalProblem {
  using C = compute_t<T>;
  int64_t rows, classes, total;
  const T *inputs, *values;
  const int64_t* labels;
  FocalForm form;
  C alpha, smoothing;
  const C *class_alpha, *class_weight;

  // Of an element whose class is `column`, or, in a pack of several rows, some rows further.
  __device__ __forceinline__ C weight(FocalForm of, int64_t column, C target) const {
    if (class_alpha == nullptr && class_weight == nullptr) return focal_weight(of, target, alpha);
    while (column >= classes) column -= classes;
    const C one = focal_weight(of, target, class_alpha == nullptr ? alpha : class_alpha[column]);
    return class_weight == nullptr ? one : one * class_weight[column];
  }
};

// The terms of one pack, with every factor but the incoming gradient: whole(terms) has them all. If
// the targets are labels without smoothing, of a form that weighs them by alpha alone (kHard), a
// pack with foreground goes element by element instead, one(element, term): it is rare, and its
// registers would cost all others threads.
template <class T, class Power, bool kHard, class Whole, class One>
__device__ __forceinline__ void focal_terms(const FocalProblem<T>& p, const Power& power,
                                            int64_t first, const Place<int64_t>& place,
                                            Whole&& whole, One&& one) {
  using C = compute_t<T>;
  constexpr int kSize = Pack<T>::size;
  const auto read_labels = [&] {
    return PackLabels<kSize>(place, p.rows, p.classes, [&](int64_t row) { return p.labels[row]; });
  };
  FocalTerm<C> terms[kSize];
  if constexpr (kHard) {
    const PackLabels<kSize> labels = read_labels();
    const auto weight_of = [&](int i, C target) {
      const C weight = p.weight(FocalForm::focal, place.column + i, target);
      return has(labels.counted, i) ? weight : C(0);
    };
    if (labels.hot != 0) {
#pragma unroll 1
      for (int i = 0; i < kSize && first + i < p.total; ++i) {
        const C x = static_cast<C>(p.inputs[first + i]), target = C(has(labels.hot, i));
        one(first + i, weigh(weight_of(i, target), focal_hard(x, target, power)));
      }
      return;
    }
    const Pack<T> inputs = load(p.inputs, first, p.total);
#pragma unroll
    for (int i = 0; i < kSize; ++i) {
      const FocalTerm<C> term = focal_hard(static_cast<C>(inputs.items[i]), C(0), power);
      terms[i] = weigh(weight_of(i, C(0)), term);
    }
  } else {
    const Pack<T> inputs = load(p.inputs, first, p.total);
    C targets[kSize];
    unsigned counted = ~0u;
    if (p.labels != nullptr) {
      const PackLabels<kSize> labels = read_labels();
      counted = labels.counted;
#pragma unroll
      for (int i = 0; i < kSize; ++i) targets[i] = C(has(labels.hot, i));
    } else {
      const Pack<T> values = load(p.values, first, p.total);
#pragma unroll
      for (int i = 0; i < kSize; ++i) targets[i] = static_cast<C>(values.items[i]);
    }
#pragma unroll
    for (int i = 0; i < kSize; ++i) {
      C& t = targets[i];
      if (p.smoothing != C(0)) t = smooth(t, p.smoothing);
      const FocalTerm<C> term = focal(p.form, static_cast<C>(inputs.items[i]), t, power);
      const C weight = p.weight(p.form, place.column + i, t);
      terms[i] = weigh(has(counted, i) ? weight : C(0), term);
    }
  }
  whole(terms);
}

}  // namespace focaldet
