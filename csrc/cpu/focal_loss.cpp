// Sigmoid focal loss on the CPU: elementwise, summed, and its gradient, apart or in one pass.
//
// With integer targets nearly every element is a negative, so a block of logits (focal_terms.h) is
// computed as all negatives and then the one positive of each foreground row is put right: targets
// cost 1/K of the logits' bytes. Memory traffic: one read of the logits, and one write where there
// is an output of their size. Sums are taken block by block in double, in an order that depends on
// the shape alone.
#include <algorithm>
#include <type_traits>
#include <vector>

#include "../arguments.h"
#include "focal_terms.h"
#include "memory.h"

namespace focaldet {
namespace {

using MaybeTensor = std::optional<Tensor>;

struct FocalParams {
  double alpha, gamma, smoothing;
  const MaybeTensor &class_alpha, &class_weight;
  FocalForm form;
};

// Rows of classes over dense memory. Targets are labels (one per row) or values (one per element).
template <class T>
struct FocalProblem {
  using C = compute_t<T>;
  int64_t rows, classes;
  const T* inputs;
  const int64_t* labels;
  const T* values;
  C alpha, smoothing;
  std::vector<C> class_alpha, class_weight;  // or empty

  // Labels and no factor by class: nearly all elements are alike.
  bool plain() const {
    return labels != nullptr && smoothing == C(0) && class_alpha.empty() && class_weight.empty();
  }
  bool ignored(int64_t row) const { return labels[row] < -1 || labels[row] >= classes; }
};

// body(row, begin, end): the rows that elements [first, first + n) belong to, and where in the
// block they begin and end.
template <class Body>
void for_each_row(int64_t first, int64_t n, int64_t classes, Body&& body) {
  int64_t row = first / classes, begin = row * classes - first;
  for (; begin < n; ++row, begin += classes) {
    body(row, std::max<int64_t>(begin, 0), std::min(begin + classes, n));
  }
}

// Elements [first, first + n), loaded into the block.
template <class T>
void compute(const FocalProblem<T>& p, int64_t first, int64_t n, FocalBlock<T>& block, T* grad) {
  using C = compute_t<T>;
  if (p.plain()) {
    const C positive = focal_weight(FocalForm::focal, C(1), p.alpha);
    for_each_row(first, n, p.classes, [&](int64_t row, int64_t begin, int64_t end) {
      if (p.ignored(row)) return block.ignore(begin, end);
      const int64_t hot = row * p.classes + p.labels[row] - first;
      if (p.labels[row] >= 0 && begin <= hot && hot < end) block.positive(hot, positive);
    });
    return block.negatives(focal_weight(FocalForm::focal, C(0), p.alpha), grad);
  }
  C* t = block.targets();
  C factors[FocalBlock<T>::kSize];
  const bool weighted = p.labels != nullptr || !p.class_alpha.empty() || !p.class_weight.empty();
  if (p.labels == nullptr) {
    vectorised([&]() FD_SIMD_LAMBDA {
      for (int64_t i = 0; i < n; ++i) t[i] = static_cast<C>(p.values[first + i]);
    });
  }
  for_each_row(first, weighted ? n : 0, p.classes, [&](int64_t row, int64_t begin, int64_t end) {
    const int64_t column = first + begin - row * p.classes;
    const bool ignored = p.labels != nullptr && p.ignored(row);
    for (int64_t i = begin, k = column; i < end; ++i, ++k) {
      if (p.labels != nullptr) t[i] = C(p.labels[row] == k);
      factors[i] = ignored ? C(0) : (p.class_weight.empty() ? C(1) : p.class_weight[k]);
    }
  });
  if (p.smoothing != C(0)) {
    vectorised([&]() FD_SIMD_LAMBDA {
      for (int64_t i = 0; i < n; ++i) t[i] = smooth(t[i], p.smoothing);
    });
  }
  if (!p.class_alpha.empty()) {
    for (int64_t i = 0, k = first % p.classes; i < n; ++i, k = k + 1 == p.classes ? 0 : k + 1) {
      factors[i] *= focal_weight(FocalForm::focal, t[i], p.class_alpha[k]);
    }
  }
  block.dense(p.class_alpha.empty() ? p.alpha : C(-1), weighted ? factors : nullptr, grad);
}

// What an operator asks for. The gradient is times a number, or one value for each element.
template <class T>
struct Outputs {
  T *loss, *grad;
  compute_t<T> scale;
  const T* incoming;
};

// Fills the outputs that are there; returns the sum of the losses if asked.
template <class T>
double run(const FocalProblem<T>& problem, const FocalParams& params, const Outputs<T>& out,
           bool summed) {
  using C = compute_t<T>;
  constexpr int64_t kSize = FocalBlock<T>::kSize;
  const int64_t total = problem.rows * problem.classes, blocks = (total + kSize - 1) / kSize;
  std::vector<double> partial(summed ? blocks : 0);
  const auto terms = make_focal_terms<C>(params.gamma, params.form);
  torch::stable::parallel_for(0, blocks, 16, [&](int64_t begin, int64_t end) {
    FocalBlock<T> block(*terms, summed || out.loss != nullptr);
    for (int64_t b = begin; b < end; ++b) {
      const int64_t first = b * kSize, n = std::min(kSize, total - first);
      T* grad = out.grad == nullptr ? nullptr : out.grad + first;
      const T* incoming = out.incoming == nullptr ? nullptr : out.incoming + first;
      block.load(problem.inputs + first, n, out.scale, incoming);
      compute(problem, first, n, block, grad);
      if (summed) partial[b] = block.loss_sum();
      if (out.loss != nullptr) block.store_losses(out.loss + first);
    }
  });
  double sum = 0;
  for (const double value : partial) sum += value;
  return sum;
}

// body(problem) with the arguments as the kernel reads them; x is dense.
template <class Body>
void with_problem(const Tensor& x, const Tensor& targets, const FocalParams& params,
                  const FocalShape& shape, Body&& body) {
  const Tensor t = shape.labelled ? dense(targets) : dense(targets, x.scalar_type());
  dispatch_floating(x.scalar_type(), "sigmoid_focal_loss", [&](auto tag) {
    using T = typename decltype(tag)::type;
    using C = compute_t<T>;
    body(FocalProblem<T>{shape.rows, shape.classes, x.const_data_ptr<T>(),
                         shape.labelled ? t.const_data_ptr<int64_t>() : nullptr,
                         shape.labelled ? nullptr : t.const_data_ptr<T>(),
                         static_cast<C>(params.alpha), static_cast<C>(params.smoothing),
                         per_class<C>(params.class_alpha, shape.classes, "alpha"),
                         per_class<C>(params.class_weight, shape.classes, "class_weight")});
  });
}

Tensor sigmoid_focal_loss(const Tensor& inputs, const Tensor& targets, double alpha, double gamma,
                          const MaybeTensor& class_alpha, const MaybeTensor& class_weight,
                          double label_smoothing, const std::string& form) {
  const FocalParams params{alpha,       gamma,        label_smoothing,
                           class_alpha, class_weight, focal_form(form, class_alpha)};
  const FocalShape shape = check_focal_loss(inputs, targets, std::nullopt);
  const Tensor x = dense(inputs);
  Tensor loss = large_empty_like(x);
  with_problem(x, targets, params, shape, [&](const auto& problem) {
    using T = std::remove_const_t<std::remove_pointer_t<decltype(problem.inputs)>>;
    run<T>(problem, params, {loss.mutable_data_ptr<T>(), nullptr, 1, nullptr}, false);
  });
  return loss;
}

// The sum over the divisor, and its gradient where there is room for it, of dense inputs.
Tensor summed(const Tensor& inputs, const Tensor& targets, const FocalParams& params,
              const MaybeTensor& divisor, Tensor* gradient) {
  const FocalShape shape = check_focal_loss(inputs, targets, std::nullopt);
  Tensor sum = empty({}, compute_dtype(inputs), inputs);
  with_problem(inputs, targets, params, shape, [&](const auto& problem) {
    using T = std::remove_const_t<std::remove_pointer_t<decltype(problem.inputs)>>;
    using C = compute_t<T>;
    const double by = number_in(divisor, 1);
    T* grad = gradient == nullptr ? nullptr : gradient->mutable_data_ptr<T>();
    const double total =
        run<T>(problem, params, {nullptr, grad, static_cast<C>(1 / by), nullptr}, true);
    sum.mutable_data_ptr<C>()[0] = static_cast<C>(total / by);
  });
  return sum;
}

Tensor sigmoid_focal_loss_sum(const Tensor& inputs, const Tensor& targets, double alpha,
                              double gamma, const MaybeTensor& class_alpha,
                              const MaybeTensor& class_weight, double label_smoothing,
                              const std::string& form) {
  return summed(
      dense(inputs), targets,
      {alpha, gamma, label_smoothing, class_alpha, class_weight, focal_form(form, class_alpha)},
      std::nullopt, nullptr);
}

std::tuple<Tensor, Tensor> sigmoid_focal_loss_sum_and_gradient(
    const Tensor& inputs, const Tensor& targets, double alpha, double gamma,
    const MaybeTensor& class_alpha, const MaybeTensor& class_weight, double label_smoothing,
    const std::string& form, const MaybeTensor& divisor) {
  const Tensor x = dense(inputs);
  Tensor gradient = large_empty_like(x);
  const Tensor sum = summed(
      x, targets,
      {alpha, gamma, label_smoothing, class_alpha, class_weight, focal_form(form, class_alpha)},
      divisor, &gradient);
  return {sum, gradient};
}

Tensor sigmoid_focal_loss_backward(const Tensor& grad, const Tensor& inputs, const Tensor& targets,
                                   double alpha, double gamma, const MaybeTensor& class_alpha,
                                   const MaybeTensor& class_weight, double label_smoothing,
                                   const std::string& form) {
  const FocalParams params{alpha,       gamma,        label_smoothing,
                           class_alpha, class_weight, focal_form(form, class_alpha)};
  const FocalShape shape = check_focal_loss(inputs, targets, grad);
  const bool one = grad.dim() == 0;
  const Tensor incoming = dense(grad, one ? compute_dtype(inputs) : inputs.scalar_type());
  const Tensor x = dense(inputs);
  Tensor result = large_empty_like(x);
  with_problem(x, targets, params, shape, [&](const auto& problem) {
    using T = std::remove_const_t<std::remove_pointer_t<decltype(problem.inputs)>>;
    using C = compute_t<T>;
    run<T>(problem, params,
           {nullptr, result.mutable_data_ptr<T>(), one ? incoming.const_data_ptr<C>()[0] : C(1),
            one ? nullptr : incoming.const_data_ptr<T>()},
           false);
  });
  return result;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(focaldet, CPU, m) {
  m.impl("sigmoid_focal_loss", TORCH_BOX(&sigmoid_focal_loss));
  m.impl("sigmoid_focal_loss_sum", TORCH_BOX(&sigmoid_focal_loss_sum));
  m.impl("sigmoid_focal_loss_sum_and_gradient", TORCH_BOX(&sigmoid_focal_loss_sum_and_gradient));
  m.impl("sigmoid_focal_loss_backward", TORCH_BOX(&sigmoid_focal_loss_backward));
}

}  // namespace focaldet
