// Sigmoid focal loss on the CPU: elementwise, summed, and its gradient.
//
// The logits are read as rows of K (classes) in blocks of about 1024 elements that stay in the
// first-level cache: convert to float32, one vectorised pass of math/focal.h, convert back. With
// integer targets nearly every element is a negative, so a block is computed as all negatives and
// then the one positive of each foreground row is put right: targets cost 1/K of the logits' bytes.
// Memory traffic: forward and gradient one read and one write, the sum one read. Sums are taken
// block by block in double, in an order that depends on the shape alone.
#include <algorithm>
#include <limits>
#include <type_traits>
#include <vector>

#include "../arguments.h"
#include "../math/focal.h"
#include "simd.h"

namespace focaldet {
namespace {

using MaybeTensor = std::optional<Tensor>;
constexpr int64_t kBlock = 1024;  // elements
constexpr int64_t kIgnored = -2;

struct FocalParams {
  double alpha, gamma, smoothing;
  const MaybeTensor &class_alpha, &class_weight;
};

enum class Output { loss, sum, grad };

// Rows of classes over dense memory. Targets are labels (one per row) or values (one per element).
template <class T>
struct FocalProblem {
  int64_t rows, classes;
  const T* inputs;
  const int64_t* labels;
  const T* values;
  std::vector<compute_t<T>> alpha, weight;  // per class, or empty
};

// Computes elements [first, first + n) of the problem, whole rows when targets are labels, into
// `term`: the loss or its derivative, with every factor but the incoming gradient.
template <class T, class Power>
class FocalBlock {
  using C = compute_t<T>;

 public:
  FocalBlock(const FocalProblem<T>& problem, const FocalParams& params, const Power& power,
             bool gradient)
      : p_(problem), params_(params), power_(power), gradient_(gradient) {}

  void compute(int64_t first, int64_t n, C* x, C* t, C* term) const {
    vectorised([&]() FD_SIMD_LAMBDA {
      for (int64_t i = 0; i < n; ++i) x[i] = static_cast<C>(p_.inputs[first + i]);
    });
    const bool hard = p_.labels != nullptr && params_.smoothing == 0;
    if (hard) {
      negatives(n, x, term);
    } else {
      targets(first, n, t);
      if (params_.smoothing != 0) {
        const C epsilon = static_cast<C>(params_.smoothing);
        for (int64_t i = 0; i < n; ++i) t[i] = smooth(t[i], epsilon);
      }
      dense_targets(n, x, t, term);
    }
    if (hard) positives(first, n, x, term);
    factors(first, n, hard, t, term);
    if (p_.labels != nullptr) erase_ignored(first, n, term);
  }

 private:
  void negatives(int64_t n, const C* x, C* term) const {
    const C balance = p_.alpha.empty()
                          ? focal_weight(FocalForm::focal, C(0), static_cast<C>(params_.alpha))
                          : C(1);
    vectorised([&]() FD_SIMD_LAMBDA {
      if (gradient_) {
        for (int64_t i = 0; i < n; ++i) term[i] = weigh(balance, focal_negative(x[i], power_).grad);
      } else {
        for (int64_t i = 0; i < n; ++i) term[i] = weigh(balance, focal_negative(x[i], power_).loss);
      }
    });
  }

  void positives(int64_t first, int64_t n, const C* x, C* term) const {
    const C balance = p_.alpha.empty()
                          ? focal_weight(FocalForm::focal, C(1), static_cast<C>(params_.alpha))
                          : C(1);
    for (int64_t row = first / p_.classes, i = 0; i < n; ++row, i += p_.classes) {
      const int64_t label = p_.labels[row];
      if (label < 0 || label >= p_.classes) continue;
      const FocalTerm<C> mirrored = focal_negative(-x[i + label], power_);
      term[i + label] = weigh(balance, gradient_ ? -mirrored.grad : mirrored.loss);
    }
  }

  void targets(int64_t first, int64_t n, C* t) const {
    if (p_.values != nullptr) {
      for (int64_t i = 0; i < n; ++i) t[i] = static_cast<C>(p_.values[first + i]);
      return;
    }
    std::fill(t, t + n, C(0));
    for (int64_t row = first / p_.classes, i = 0; i < n; ++row, i += p_.classes) {
      const int64_t label = p_.labels[row];
      if (label >= 0 && label < p_.classes) t[i + label] = C(1);
    }
  }

  // One per element, as a rule all 0 or 1, which vectorises.
  void dense_targets(int64_t n, const C* x, const C* t, C* term) const {
    const C alpha = p_.alpha.empty() ? static_cast<C>(params_.alpha) : C(-1);
    int64_t soft_targets = 0;
    vectorised([&]() FD_SIMD_LAMBDA {
      for (int64_t i = 0; i < n; ++i) soft_targets += !((t[i] == C(0)) | (t[i] == C(1)));
      if (soft_targets != 0) return;
      if (gradient_) {
        for (int64_t i = 0; i < n; ++i) {
          term[i] = weigh(focal_weight(FocalForm::focal, t[i], alpha),
                          focal_hard(x[i], t[i], power_).grad);
        }
      } else {
        for (int64_t i = 0; i < n; ++i) {
          term[i] = weigh(focal_weight(FocalForm::focal, t[i], alpha),
                          focal_hard(x[i], t[i], power_).loss);
        }
      }
    });
    if (soft_targets == 0) return;
    for (int64_t i = 0; i < n; ++i) {
      const FocalTerm<C> both = focal(FocalForm::focal, x[i], t[i], power_);
      term[i] =
          weigh(focal_weight(FocalForm::focal, t[i], alpha), gradient_ ? both.grad : both.loss);
    }
  }

  // Per-class alpha and weight; rare, so not in the loops above.
  void factors(int64_t first, int64_t n, bool hard, const C* t, C* term) const {
    if (p_.alpha.empty() && p_.weight.empty()) return;
    for (int64_t i = 0; i < n; ++i) {
      const int64_t row = (first + i) / p_.classes, k = (first + i) % p_.classes;
      const C target = hard ? C(p_.labels[row] == k) : t[i];
      if (!p_.alpha.empty())
        term[i] = weigh(focal_weight(FocalForm::focal, target, p_.alpha[k]), term[i]);
      if (!p_.weight.empty()) term[i] = weigh(p_.weight[k], term[i]);
    }
  }

  void erase_ignored(int64_t first, int64_t n, C* term) const {
    for (int64_t row = first / p_.classes, i = 0; i < n; ++row, i += p_.classes) {
      const int64_t label = p_.labels[row];
      if (label < -1 || label >= p_.classes) std::fill(term + i, term + i + p_.classes, C(0));
    }
  }

  const FocalProblem<T>& p_;
  const FocalParams& params_;
  const Power& power_;
  const bool gradient_;
};

template <class T, class Power>
Tensor run(Output output, const Tensor& inputs, const FocalProblem<T>& problem,
           const FocalParams& params, const Power& power, const MaybeTensor& upstream) {
  using C = compute_t<T>;
  const int64_t rows_in_block =
      std::max<int64_t>(1, kBlock / std::max<int64_t>(1, problem.classes));
  const int64_t step = rows_in_block * problem.classes;
  const int64_t total = problem.rows * problem.classes;
  const int64_t blocks = total == 0 ? 0 : (total + step - 1) / step;

  Tensor result = output == Output::sum ? full({}, compute_dtype(inputs), inputs, 0.0)
                                        : torch::stable::empty_like(inputs);
  T* out = output == Output::sum ? nullptr : result.mutable_data_ptr<T>();
  const bool scalar_upstream = upstream && upstream->dim() == 0;
  const C scale = scalar_upstream ? upstream->const_data_ptr<C>()[0] : C(1);
  const T* each = upstream && !scalar_upstream ? upstream->const_data_ptr<T>() : nullptr;
  std::vector<double> partial(output == Output::sum ? blocks : 0);

  const FocalBlock<T, Power> block(problem, params, power, output == Output::grad);
  torch::stable::parallel_for(0, blocks, 16, [&](int64_t begin, int64_t end) {
    std::vector<C> x(step), t(step), term(step);
    for (int64_t b = begin; b < end; ++b) {
      const int64_t first = b * step, n = std::min(step, total - first);
      block.compute(first, n, x.data(), t.data(), term.data());
      if (output == Output::sum) {
        double sum = 0;
        for (int64_t i = 0; i < n; ++i) sum += static_cast<double>(term[i]);
        partial[b] = sum;
        continue;
      }
      vectorised([&]() FD_SIMD_LAMBDA {
        if (each != nullptr) {
          for (int64_t i = 0; i < n; ++i) {
            out[first + i] = static_cast<T>(term[i] * static_cast<C>(each[first + i]));
          }
        } else if (output == Output::grad) {
          for (int64_t i = 0; i < n; ++i) out[first + i] = static_cast<T>(term[i] * scale);
        } else {
          for (int64_t i = 0; i < n; ++i) out[first + i] = static_cast<T>(term[i]);
        }
      });
    }
  });
  if (output == Output::sum) {
    double sum = 0;
    for (const double value : partial) sum += value;
    result.mutable_data_ptr<C>()[0] = static_cast<C>(sum);
  }
  return result;
}

template <class C>
std::vector<C> per_class(const MaybeTensor& table, int64_t classes, const char* name) {
  if (!table) return {};
  check_per_class(*table, classes, name);
  const Tensor typed =
      dense(*table, std::is_same_v<C, double> ? ScalarType::Double : ScalarType::Float);
  const C* data = typed.const_data_ptr<C>();
  return std::vector<C>(data, data + classes);
}

Tensor focal(Output output, const Tensor& inputs, const Tensor& targets, const FocalParams& params,
             const MaybeTensor& upstream = std::nullopt) {
  const Tensor x = dense(inputs);
  const FocalShape shape = check_focal_loss(inputs, targets, upstream);
  const bool labelled = shape.labelled;
  const Tensor t = labelled ? dense(targets) : dense(targets, inputs.scalar_type());

  return dispatch_floating(inputs.scalar_type(), "sigmoid_focal_loss", [&](auto tag) {
    using T = typename decltype(tag)::type;
    using C = compute_t<T>;
    MaybeTensor up = upstream;
    if (up) up = dense(*up, up->dim() == 0 ? compute_dtype(inputs) : inputs.scalar_type());
    const FocalProblem<T> problem{shape.rows,
                                  shape.classes,
                                  x.const_data_ptr<T>(),
                                  labelled ? t.const_data_ptr<int64_t>() : nullptr,
                                  labelled ? nullptr : t.const_data_ptr<T>(),
                                  per_class<C>(params.class_alpha, shape.classes, "alpha"),
                                  per_class<C>(params.class_weight, shape.classes, "class_weight")};
    const auto with = [&](const auto& power) {
      return run<T>(output, x, problem, params, power, up);
    };
    if (params.gamma == 0) return with(IntegerPower<0>{});
    if (params.gamma == 1) return with(IntegerPower<1>{});
    if (params.gamma == 2) return with(IntegerPower<2>{});
    return with(RealPower<C>(params.gamma));
  });
}

Tensor sigmoid_focal_loss(const Tensor& inputs, const Tensor& targets, double alpha, double gamma,
                          const MaybeTensor& class_alpha, const MaybeTensor& class_weight,
                          double label_smoothing, const std::string&) {
  return focal(Output::loss, inputs, targets,
               {alpha, gamma, label_smoothing, class_alpha, class_weight});
}

Tensor sigmoid_focal_loss_sum(const Tensor& inputs, const Tensor& targets, double alpha,
                              double gamma, const MaybeTensor& class_alpha,
                              const MaybeTensor& class_weight, double label_smoothing,
                              const std::string&) {
  return focal(Output::sum, inputs, targets,
               {alpha, gamma, label_smoothing, class_alpha, class_weight});
}

Tensor sigmoid_focal_loss_backward(const Tensor& grad, const Tensor& inputs, const Tensor& targets,
                                   double alpha, double gamma, const MaybeTensor& class_alpha,
                                   const MaybeTensor& class_weight, double label_smoothing,
                                   const std::string&) {
  return focal(Output::grad, inputs, targets,
               {alpha, gamma, label_smoothing, class_alpha, class_weight}, grad);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(focaldet, CPU, m) {
  m.impl("sigmoid_focal_loss", TORCH_BOX(&sigmoid_focal_loss));
  m.impl("sigmoid_focal_loss_sum", TORCH_BOX(&sigmoid_focal_loss_sum));
  m.impl("sigmoid_focal_loss_backward", TORCH_BOX(&sigmoid_focal_loss_backward));
}

}  // namespace focaldet
