// The focal loss of a block of logits on the CPU: what cpu/focal_loss.cpp and
// cpu/retinanet_loss.cpp share. A block stays in the first-level cache from load to store, so that
// loss and gradient together cost one read of the logits and one write.
#pragma once

#include <memory>
#include <type_traits>
#include <vector>

#include "../arguments.h"
#include "simd.h"

namespace focaldet {

// A value per class in the type of the arithmetic; empty where there is none.
template <class C>
std::vector<C> per_class(const std::optional<Tensor>& table, int64_t classes, const char* name) {
  if (!table) return {};
  check_per_class(*table, classes, name);
  const Tensor typed =
      dense(*table, std::is_same_v<C, double> ? ScalarType::Double : ScalarType::Float);
  const C* data = typed.const_data_ptr<C>();
  return std::vector<C>(data, data + classes);
}

// The loops over math/focal.h, by arithmetic and exponent. Where loss or grad is null it is not
// computed; grad may be x.
template <class C>
class FocalTerms {
 public:
  virtual ~FocalTerms() = default;
  // Targets 0, every loss and gradient times its factor. `scratch` has room for n.
  virtual void negatives(const C* x, int64_t n, FocalTerm<C> factor, C* scratch, C* loss,
                         C* grad) const = 0;
  // Any targets, weighed with alpha.
  virtual void dense(const C* x, const C* t, int64_t n, C alpha, C* loss, C* grad) const = 0;
  // Target 1.
  virtual FocalTerm<C> positive(C x) const = 0;
};

template <class C>
std::unique_ptr<FocalTerms<C>> make_focal_terms(double gamma, FocalForm form);

// At most kSize logits at a time: load them, say what is no negative, and then compute.
template <class T>
class FocalBlock {
 public:
  using C = compute_t<T>;
  static constexpr int64_t kSize = 1024;

  FocalBlock(const FocalTerms<C>& terms, bool want_loss)
      : terms_(terms), loss_(want_loss ? losses_ : nullptr) {}

  // Gradients are times `scale`, and each one times its `incoming` where that is not null.
  void load(const T* logits, int64_t n, C scale, const T* incoming = nullptr) {
    n_ = n;
    scale_ = scale;
    incoming_ = incoming;
    exceptions_.clear();
    if constexpr (std::is_same_v<T, C>) {
      x_ = logits;
    } else {
      vectorised([&]() FD_SIMD_LAMBDA {
        for (int64_t i = 0; i < n; ++i) wide_[i] = static_cast<C>(logits[i]);
      });
      x_ = wide_;
    }
  }

  void positive(int64_t i, C weight) {
    const FocalTerm<C> term = terms_.positive(x_[i]);
    exceptions_.push_back({i, i + 1, {weigh(weight, term.loss), weigh(weight, term.grad)}});
  }
  void ignore(int64_t begin, int64_t end) { exceptions_.push_back({begin, end, {C(0), C(0)}}); }

  // What is no exception is a negative of this weight. The gradient goes to `out`, which may be
  // where the logits are, or null.
  void negatives(C weight, T* out) {
    C* grad = begin_grad(out);
    terms_.negatives(x_, n_, {weight, weight * scale_}, t_, loss_, grad);
    put_right(grad, out);
  }
  // The same with a weight for each.
  void negatives(const C* weights, T* out) {
    C* grad = begin_grad(out);
    terms_.negatives(x_, n_, {C(1), scale_}, t_, loss_, grad);
    multiply(weights, grad);
    put_right(grad, out);
  }

  // Room for one target for each logit.
  C* targets() { return t_; }
  // Any targets. `factors`: beside alpha, for each; or null.
  void dense(C alpha, const C* factors, T* out) {
    C* grad = begin_grad(out);
    terms_.dense(x_, t_, n_, alpha, loss_, grad);
    if (factors != nullptr) multiply(factors, grad);
    if (grad != nullptr && scale_ != C(1)) {
      vectorised([&]() FD_SIMD_LAMBDA {
        for (int64_t i = 0; i < n_; ++i) grad[i] *= scale_;
      });
    }
    end_grad(grad, out);
  }

  // In double, so that hardly anything depends on how the logits lie in memory; in 16 lanes, so
  // that nothing depends on the SIMD level.
  double loss_sum() const {
    double lanes[16] = {};
    vectorised([&]() FD_SIMD_LAMBDA {
      for (int64_t i = 0; i + 16 <= n_; i += 16) {
        for (int64_t lane = 0; lane < 16; ++lane) lanes[lane] += losses_[i + lane];
      }
    });
    double sum = 0;
    for (int64_t i = n_ / 16 * 16; i < n_; ++i) sum += losses_[i];
    for (const double lane : lanes) sum += lane;
    return sum;
  }
  void store_losses(T* out) const {
    vectorised([&]() FD_SIMD_LAMBDA {
      for (int64_t i = 0; i < n_; ++i) out[i] = static_cast<T>(losses_[i]);
    });
  }

 private:
  struct Exception {
    int64_t begin, end;
    FocalTerm<C> term;
  };

  void multiply(const C* factors, C* grad) {
    vectorised([&]() FD_SIMD_LAMBDA {
      for (int64_t i = 0; loss_ != nullptr && i < n_; ++i) loss_[i] = weigh(factors[i], loss_[i]);
      for (int64_t i = 0; grad != nullptr && i < n_; ++i) grad[i] = weigh(factors[i], grad[i]);
    });
  }

  void put_right(C* grad, T* out) {
    for (const Exception& e : exceptions_) {
      for (int64_t i = e.begin; i < e.end; ++i) {
        if (loss_ != nullptr) loss_[i] = e.term.loss;
        if (grad != nullptr) grad[i] = e.term.grad * scale_;
      }
    }
    end_grad(grad, out);
  }

  C* begin_grad(T* out) {
    if constexpr (std::is_same_v<T, C>) return out;
    return out == nullptr ? nullptr : wide_;  // each is read before it is written
  }
  void end_grad(C* grad, T* out) const {
    if (out == nullptr) return;
    vectorised([&]() FD_SIMD_LAMBDA {
      for (int64_t i = 0; incoming_ != nullptr && i < n_; ++i) {
        grad[i] *= static_cast<C>(incoming_[i]);
      }
      if constexpr (!std::is_same_v<T, C>) {
        for (int64_t i = 0; i < n_; ++i) out[i] = static_cast<T>(grad[i]);
      }
    });
  }

  const FocalTerms<C>& terms_;
  int64_t n_ = 0;
  C scale_ = C(1);
  const T* incoming_ = nullptr;
  const C* x_ = nullptr;
  C* loss_;
  std::vector<Exception> exceptions_;
  C wide_[kSize], t_[kSize], losses_[kSize];
};

}  // namespace focaldet
