// The vectorised loops of the focal loss: about 60 operations per logit for gamma = 2, one of them
// a division. They, and not memory, are what bounds the loss on the CPU.
#include "focal_terms.h"

namespace focaldet {
namespace {

template <class C, class Power>
class Terms final : public FocalTerms<C> {
 public:
  Terms(const Power& power, FocalForm form) : power_(power), form_(form) {}

  // Two loops, since the processor sees only a few iterations of a long one ahead: together they
  // take three quarters of the time.
  void negatives(const C* x, int64_t n, FocalTerm<C> factor, C* scratch, C* loss,
                 C* grad) const override {
    const Power power = power_;
    vectorised([&]() FD_SIMD_LAMBDA {
      FD_INDEPENDENT
      for (int64_t i = 0; i < n; ++i) scratch[i] = exp_minus_abs(x[i]);
      if (grad == nullptr) {
        FD_INDEPENDENT
        for (int64_t i = 0; i < n; ++i) {
          const Logistic<C> s = logistic(x[i], scratch[i]);
          loss[i] = weigh(factor.loss, focal_negative(s, power).loss);
        }
      } else if (loss == nullptr) {
        FD_INDEPENDENT
        for (int64_t i = 0; i < n; ++i) {
          const Logistic<C> s = logistic(x[i], scratch[i]);
          grad[i] = weigh(factor.grad, focal_negative(s, power).grad);
        }
      } else {
        FD_INDEPENDENT
        for (int64_t i = 0; i < n; ++i) {
          const FocalTerm<C> term = focal_negative(logistic(x[i], scratch[i]), power);
          loss[i] = weigh(factor.loss, term.loss);
          grad[i] = weigh(factor.grad, term.grad);
        }
      }
    });
  }

  FocalTerm<C> positive(C x) const override { return focal_hard(x, C(1), power_); }

  // Vectorised if all targets are 0 or 1, or if the power of what a soft target says needs no
  // logarithm; else one by one.
  void dense(const C* x, const C* t, int64_t n, C alpha, C* loss, C* grad) const override {
    if (form_ != FocalForm::varifocal && all_hard(t, n)) return hard(x, t, n, alpha, loss, grad);
    if constexpr (!Power::kLogarithm) {
      if (form_ == FocalForm::focal) return soft(x, t, n, alpha, loss, grad);
    }
    for (int64_t i = 0; i < n; ++i) {
      const FocalTerm<C> term = focal(form_, x[i], t[i], power_);
      const C weight = focal_weight(form_, t[i], alpha);
      if (loss != nullptr) loss[i] = weigh(weight, term.loss);
      if (grad != nullptr) grad[i] = weigh(weight, term.grad);
    }
  }

 private:
  static bool all_hard(const C* t, int64_t n) {
    int64_t soft = 0;
    vectorised([&]() FD_SIMD_LAMBDA {
      for (int64_t i = 0; i < n; ++i) soft += !((t[i] == C(0)) | (t[i] == C(1)));
    });
    return soft == 0;
  }

  void hard(const C* x, const C* t, int64_t n, C alpha, C* loss, C* grad) const {
    const Power power = power_;
    const auto weighed = [=](C target, C term) FD_SIMD_LAMBDA {
      return weigh(focal_weight(FocalForm::focal, target, alpha), term);
    };
    vectorised([&]() FD_SIMD_LAMBDA {
      if (grad == nullptr) {
        FD_INDEPENDENT
        for (int64_t i = 0; i < n; ++i) {
          loss[i] = weighed(t[i], focal_hard(x[i], t[i], power).loss);
        }
      } else if (loss == nullptr) {
        FD_INDEPENDENT
        for (int64_t i = 0; i < n; ++i) {
          grad[i] = weighed(t[i], focal_hard(x[i], t[i], power).grad);
        }
      } else {
        FD_INDEPENDENT
        for (int64_t i = 0; i < n; ++i) {
          const FocalTerm<C> term = focal_hard(x[i], t[i], power);
          loss[i] = weighed(t[i], term.loss);
          grad[i] = weighed(t[i], term.grad);
        }
      }
    });
  }

  void soft(const C* x, const C* t, int64_t n, C alpha, C* loss, C* grad) const {
    const Power power = power_;
    vectorised([&]() FD_SIMD_LAMBDA {
      FD_INDEPENDENT
      for (int64_t i = 0; i < n; ++i) {
        const bool hard = (t[i] == C(0)) | (t[i] == C(1));
        const FocalTerm<C> at_ends = focal_hard(x[i], t[i], power);
        const FocalTerm<C> between = focal_soft(x[i], t[i], power);
        const C weight = focal_weight(FocalForm::focal, t[i], alpha);
        const C l = weigh(weight, hard ? at_ends.loss : between.loss);
        const C g = weigh(weight, hard ? at_ends.grad : between.grad);
        if (loss != nullptr) loss[i] = l;
        if (grad != nullptr) grad[i] = g;
      }
    });
  }

  const Power power_;
  const FocalForm form_;
};

template <class C, class Power>
std::unique_ptr<FocalTerms<C>> terms(const Power& power, FocalForm form) {
  return std::make_unique<Terms<C, Power>>(power, form);
}

}  // namespace

template <>
std::unique_ptr<FocalTerms<float>> make_focal_terms(double gamma, FocalForm form) {
  if (gamma == 2) return terms<float>(IntegerPower<2>{}, form);
  const RealPower<float> split(gamma);
  if (split.fraction == 0) return terms<float>(RealPower<float, NoFraction>(gamma), form);
  if (split.fraction == 0.5f) return terms<float>(RealPower<float, HalfFraction>(gamma), form);
  return terms<float>(RealPower<float, OtherFraction>(gamma), form);
}

// float64 is for checking gradients: one set of loops.
template <>
std::unique_ptr<FocalTerms<double>> make_focal_terms(double gamma, FocalForm form) {
  return terms<double>(RealPower<double>(gamma), form);
}

}  // namespace focaldet
