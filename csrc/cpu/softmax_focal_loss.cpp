// Softmax focal loss on the CPU: one loss a row of K logits, and its gradient.
//
// The margin z = x_t - logsumexp over the other classes makes a row one logit of math/focal.h with
// target 1; dz/dx is 1 at the label and minus the softmax over the others elsewhere. A row is
// widened into a buffer of the first-level cache and passed over there: the greatest of the others,
// their exponentials and sum, and, for the gradient, once more to scale them. Maxima and sums are
// taken in 16 lanes, then over the lanes in a fixed order, so that every SIMD level and number of
// threads gives the same bits. One read of the logits, for the gradient one write, K exponentials a
// row.
#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "../arguments.h"
#include "../math/box.h"
#include "../math/focal.h"
#include "memory.h"
#include "simd.h"

namespace focaldet {
namespace {

using MaybeTensor = std::optional<Tensor>;
constexpr int64_t kLanes = 16;

template <class C, class Operation>
FD_HD C over_lanes(C* lanes, const Operation& operation) {
  for (int64_t half = kLanes / 2; half > 0; half /= 2) {
    for (int64_t lane = 0; lane < half; ++lane) {
      lanes[lane] = operation(lanes[lane], lanes[lane + half]);
    }
  }
  return lanes[0];
}

// The classes that a row's label is not, in a buffer padded to whole groups of lanes.
template <class C>
class OtherClasses {
 public:
  explicit OtherClasses(int64_t classes)
      : classes_(classes), e_((classes + kLanes - 1) / kLanes * kLanes) {}

  // Reads a row and returns the label's margin over the others: infinite if there are none. Taking
  // off the greatest first leaves z as exact as it is small.
  template <class T>
  FD_HD C margin(const T* logits, int64_t label) {
    const C infinity = std::numeric_limits<C>::infinity();
    C* e = e_.data();
    const int64_t n = static_cast<int64_t>(e_.size());
    for (int64_t i = 0; i < classes_; ++i) e[i] = static_cast<C>(logits[i]);
    for (int64_t i = classes_; i < n; ++i) e[i] = -infinity;
    const C at_label = e[label];
    e[label] = -infinity;

    C lanes[kLanes];
    for (int64_t lane = 0; lane < kLanes; ++lane) lanes[lane] = -infinity;
    for (int64_t i = 0; i < n; i += kLanes) {
#pragma GCC unroll 1  // GCC unrolls so short a loop before it could make one vector of it
      for (int64_t lane = 0; lane < kLanes; ++lane) lanes[lane] = max_(lanes[lane], e[i + lane]);
    }
    const C top = over_lanes(lanes, [](C a, C b) FD_SIMD_LAMBDA { return max_(a, b); });

    for (int64_t lane = 0; lane < kLanes; ++lane) lanes[lane] = C(0);
    for (int64_t i = 0; i < n; i += kLanes) {
#pragma GCC unroll 1
      for (int64_t lane = 0; lane < kLanes; ++lane) {
        const C x = e[i + lane];
        e[i + lane] = x == top ? C(1) : exp_(x - top);  // of infinities there is no difference
        lanes[lane] += e[i + lane];
      }
    }
    sum_ = over_lanes(lanes, [](C a, C b) FD_SIMD_LAMBDA { return a + b; });
    return classes_ == 1 ? infinity : (at_label - top) - std::log(sum_);
  }

  // d_z times dz/dx of the row that was read last.
  template <class T>
  FD_HD void gradient(C d_z, int64_t label, T* out) const {
    const C* e = e_.data();
    const C scale = -d_z / sum_;
    for (int64_t i = 0; i < classes_; ++i) out[i] = static_cast<T>(scale * e[i]);
    out[label] = static_cast<T>(d_z);
  }

 private:
  int64_t classes_;
  std::vector<C> e_;
  C sum_ = C(1);
};

struct SoftmaxParams {
  double alpha, gamma;
  const MaybeTensor& class_alpha;
};

// The loss, or, with the incoming gradient, the gradient.
template <class T>
Tensor run(const Tensor& inputs, const Tensor& labels, const SoftmaxParams& params,
           const MaybeTensor& grad, int64_t classes) {
  using C = compute_t<T>;
  const ScalarType wide = compute_dtype(inputs);
  const Tensor logits = dense(inputs), targets = dense(labels);
  const MaybeTensor table =
      params.class_alpha ? MaybeTensor(dense(*params.class_alpha, wide)) : std::nullopt;
  const MaybeTensor upstream = grad ? MaybeTensor(dense(*grad, wide)) : std::nullopt;
  Tensor result =
      grad ? large_empty_like(logits) : torch::stable::new_empty(logits, labels.sizes(), wide);

  const T* x = logits.const_data_ptr<T>();
  const int64_t* label_of = targets.const_data_ptr<int64_t>();
  const C* by_label = table ? table->const_data_ptr<C>() : nullptr;
  const C* d_loss = upstream ? upstream->const_data_ptr<C>() : nullptr;
  const int64_t d_step = upstream && upstream->dim() > 0 ? 1 : 0;
  C* loss = grad ? nullptr : result.mutable_data_ptr<C>();
  T* d_x = grad ? result.mutable_data_ptr<T>() : nullptr;
  const C alpha = static_cast<C>(params.alpha);
  const RealPower<C> power(params.gamma);

  const int64_t grain = std::max<int64_t>(1, 16384 / std::max<int64_t>(1, classes));
  torch::stable::parallel_for(0, targets.numel(), grain, [&](int64_t begin, int64_t end) {
    OtherClasses<C> others(classes);
    vectorised([&]() FD_SIMD_LAMBDA {
      for (int64_t i = begin; i < end; ++i) {
        const int64_t label = label_of[i];
        const bool counts = (label >= 0) & (label < classes);
        const C balance = !counts ? C(0) : by_label != nullptr ? by_label[label] : alpha;
        const C factor = balance < C(0) ? C(1) : balance;
        if (factor == C(0)) {  // ignored; the logits may be anything
          if (loss != nullptr) loss[i] = C(0);
          if (d_x != nullptr) std::fill_n(d_x + i * classes, classes, T(0));
          continue;
        }
        const C z = others.margin(x + i * classes, label);
        const FocalTerm<C> term = focal_hard(z, C(1), power);
        if (loss != nullptr) loss[i] = factor * term.loss;
        if (d_x != nullptr) {
          others.gradient(factor * term.grad * d_loss[i * d_step], label, d_x + i * classes);
        }
      }
    });
  });
  return result;
}

Tensor focal(const Tensor& inputs, const Tensor& labels, const SoftmaxParams& params,
             const MaybeTensor& grad = std::nullopt) {
  const int64_t classes = check_softmax_focal_loss(inputs, labels, params.class_alpha, grad);
  return dispatch_floating(inputs.scalar_type(), "softmax_focal_loss", [&](auto tag) {
    return run<typename decltype(tag)::type>(inputs, labels, params, grad, classes);
  });
}

Tensor softmax_focal_loss(const Tensor& inputs, const Tensor& labels, double alpha, double gamma,
                          const MaybeTensor& class_alpha) {
  return focal(inputs, labels, {alpha, gamma, class_alpha});
}

Tensor softmax_focal_loss_backward(const Tensor& grad, const Tensor& inputs, const Tensor& labels,
                                   double alpha, double gamma, const MaybeTensor& class_alpha) {
  return focal(inputs, labels, {alpha, gamma, class_alpha}, grad);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(focaldet, CPU, m) {
  m.impl("softmax_focal_loss", TORCH_BOX(&softmax_focal_loss));
  m.impl("softmax_focal_loss_backward", TORCH_BOX(&softmax_focal_loss_backward));
}

}  // namespace focaldet
