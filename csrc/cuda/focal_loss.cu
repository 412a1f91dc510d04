// Sigmoid focal loss on CUDA: elementwise, its gradient, summed, or sum and gradient in one pass
// (math/focal.h).
//
// Threads stride over the logits in packs of 16 bytes. A thread divides its first position into row
// and class once and then carries both along, so that integer targets cost a label read per pack,
// mostly from the cache, and no division.
// Bytes, with S the size of the logits: loss and gradient 2 S, the sum S, the sum with its gradient
// 2 S; 8 per row for labels, or S for dense targets, and S for an elementwise incoming gradient.
// Operations: about 45 per element for gamma 2, without a division (docs/kernels/compiled.md). Sums
// go pack by pack through double, in an order that depends on the shape alone: the same bits on
// every run and every GPU. A sum takes two launches, everything else one.
#include <type_traits>

#include "../arguments.h"
#include "focal_problem.cuh"

namespace focaldet {
namespace {

using MaybeTensor = std::optional<Tensor>;
constexpr int kThreads = kFocalThreads;
constexpr int64_t kMaxBlocks = 4096;  // six times what the largest GPU holds at once
// Kernels that leave the rare cases aside need 48 registers.
template <class T, class Power, bool kHard>
constexpr int kBlocksPerProcessor =
    kHard && std::is_same_v<Power, IntegerPower<2>> ? 5 : kFocalBlocksPerProcessor<T, Power>;

template <class T, class Body>
__device__ __forceinline__ void for_each_own_pack(const FocalProblem<T>& p, Body&& body) {
  constexpr int kSize = Pack<T>::size;
  const int64_t first = thread_index() * kSize;
  for_each_pack(first, thread_count() * kSize, p.total, p.classes, Place(first, p.classes), body);
}

// The loss, or the gradient, whose incoming factor is one number on the device or one per element.
template <class T, class Power, bool kHard, bool kGradient>
__global__ void __launch_bounds__(kThreads, (kBlocksPerProcessor<T, Power, kHard>))
    focal_elements(const FocalProblem<T> p, const Power power, const compute_t<T>* scale,
                   const T* each, T* out) {
  using C = compute_t<T>;
  const C common = kGradient && scale != nullptr ? *scale : C(1);
  for_each_own_pack(p, [&](int64_t first, const Place<int64_t>& place) {
    const auto whole = [&](FocalTerm<C>(&terms)[Pack<T>::size]) {
      if (kGradient && each != nullptr) {
        const Pack<T> incoming = load(each, first, p.total);
#pragma unroll
        for (int i = 0; i < Pack<T>::size; ++i) terms[i].grad *= static_cast<C>(incoming.items[i]);
      }
      Pack<T> result;
#pragma unroll
      for (int i = 0; i < Pack<T>::size; ++i) {
        result.items[i] = static_cast<T>(kGradient ? terms[i].grad * common : terms[i].loss);
      }
      store(out, first, p.total, result);
    };
    const auto one = [&](int64_t i, FocalTerm<C> term) {
      if (kGradient && each != nullptr) term.grad *= static_cast<C>(each[i]);
      out[i] = static_cast<T>(kGradient ? term.grad * common : term.loss);
    };
    focal_terms<T, Power, kHard>(p, power, first, place, whole, one);
  });
}

// The sum by block and, with kGradient, the gradient of sum / divisor. A pack is added up in float
// and joins the thread's sum in double: consumer GPUs do one double operation for 64 in float.
template <class T, class Power, bool kHard, bool kGradient>
__global__ void __launch_bounds__(kThreads, (kBlocksPerProcessor<T, Power, kHard>))
    focal_partial_sums(const FocalProblem<T> p, const Power power, const compute_t<T>* divisor,
                       double* partial, T* gradient) {
  using C = compute_t<T>;
  const C scale = kGradient && divisor != nullptr ? C(1) / *divisor : C(1);
  double sum = 0;
  for_each_own_pack(p, [&](int64_t first, const Place<int64_t>& place) {
    const auto whole = [&](const FocalTerm<C>(&terms)[Pack<T>::size]) {
      C pack_sum = 0;
#pragma unroll
      for (int i = 0; i < Pack<T>::size; ++i) {
        // Beyond the end no row has a label, but values are read as 0.
        if (kHard || first + i < p.total) pack_sum += terms[i].loss;
      }
      sum += static_cast<double>(pack_sum);
      if (kGradient) {
        Pack<T> result;
#pragma unroll
        for (int i = 0; i < Pack<T>::size; ++i) {
          result.items[i] = static_cast<T>(terms[i].grad * scale);
        }
        store(gradient, first, p.total, result);
      }
    };
    const auto one = [&](int64_t i, const FocalTerm<C>& term) {
      sum += static_cast<double>(term.loss);
      if (kGradient) gradient[i] = static_cast<T>(term.grad * scale);
    };
    focal_terms<T, Power, kHard>(p, power, first, place, whole, one);
  });
  const double total = block_sum<kThreads>(sum);
  if (threadIdx.x == 0) partial[blockIdx.x] = total;
}

enum class Output { loss, gradient, sum, sum_and_gradient };

// What was asked for, of the two.
struct Results {
  MaybeTensor elements, sum;
};

// `upstream` is the gradient's incoming factor, by element or 0-dim, or what sums are divided by.
template <bool kHard, class T, class Power>
Results run(Output output, const Tensor& inputs, const FocalProblem<T>& p, const Power& power,
            const MaybeTensor& upstream) {
  using C = compute_t<T>;
  const OnDevice device(inputs);
  const int64_t packs = (p.total + Pack<T>::size - 1) / Pack<T>::size;
  const bool one = upstream && upstream->dim() == 0, each = upstream && !one;
  const C* scalar = one ? upstream->const_data_ptr<C>() : nullptr;
  Results results;
  T* elements = nullptr;
  if (output != Output::sum) {
    results.elements = torch::stable::empty_like(inputs);
    elements = results.elements->template mutable_data_ptr<T>();
  }
  if (output == Output::loss || output == Output::gradient) {
    device.launch({blocks_for(packs, kThreads, kMaxBlocks), kThreads},
                  output == Output::loss ? focal_elements<T, Power, kHard, false>
                                         : focal_elements<T, Power, kHard, true>,
                  p, power, scalar, each ? upstream->const_data_ptr<T>() : nullptr, elements);
    return results;
  }
  const int64_t blocks = blocks_for(packs, kThreads, kMaxBlocks);
  Tensor partial = empty({blocks}, ScalarType::Double, inputs);
  double* partials = partial.mutable_data_ptr<double>();
  results.sum = empty({}, compute_dtype(inputs), inputs);
  device.launch({blocks, kThreads},
                output == Output::sum ? focal_partial_sums<T, Power, kHard, false>
                                      : focal_partial_sums<T, Power, kHard, true>,
                p, power, scalar, partials, elements);
  device.launch({1, kThreads}, add_partial_sums<C>, partials, blocks, scalar,
                results.sum->template mutable_data_ptr<C>());
  return results;
}

struct FocalParams {
  double alpha, gamma, smoothing;
  const MaybeTensor &class_alpha, &class_weight;
  const std::string& form;
};

Results focal(Output output, const Tensor& inputs, const Tensor& targets, const FocalParams& params,
              const MaybeTensor& upstream = std::nullopt) {
  check_device(inputs, {targets, upstream, params.class_alpha, params.class_weight},
               "sigmoid_focal_loss");
  const Tensor x = dense(inputs);
  const FocalForm form = focal_form(params.form, params.class_alpha);
  const FocalShape shape = check_focal_loss(inputs, targets, upstream);
  const bool labelled = shape.labelled;
  const Tensor t = labelled ? dense(targets) : dense(targets, inputs.scalar_type());
  const auto per_class = [&](const MaybeTensor& table, const char* name) -> MaybeTensor {
    if (!table) return table;
    check_per_class(*table, shape.classes, name);
    return dense(*table, compute_dtype(inputs));
  };
  const MaybeTensor alphas = per_class(params.class_alpha, "alpha");
  const MaybeTensor weights = per_class(params.class_weight, "class_weight");
  MaybeTensor up = upstream;
  if (up) up = dense(*up, up->dim() == 0 ? compute_dtype(inputs) : inputs.scalar_type());
  return dispatch_floating(inputs.scalar_type(), "sigmoid_focal_loss", [&](auto tag) {
    using T = typename decltype(tag)::type;
    using C = compute_t<T>;
    const FocalProblem<T> problem{shape.rows,
                                  shape.classes,
                                  shape.total,
                                  x.const_data_ptr<T>(),
                                  labelled ? nullptr : t.const_data_ptr<T>(),
                                  labelled ? t.const_data_ptr<int64_t>() : nullptr,
                                  form,
                                  static_cast<C>(params.alpha),
                                  static_cast<C>(params.smoothing),
                                  alphas ? alphas->template const_data_ptr<C>() : nullptr,
                                  weights ? weights->template const_data_ptr<C>() : nullptr};
    const bool hard = labelled && params.smoothing == 0 && form != FocalForm::varifocal;
    const auto with = [&](const auto& power) {
      return hard ? run<true>(output, x, problem, power, up)
                  : run<false>(output, x, problem, power, up);
    };
    if constexpr (!std::is_same_v<T, double>) {
      if (params.gamma == 2) return with(IntegerPower<2>{});
    }
    // One kernel for every other exponent, and for all of float64, which is for checking gradients.
    return with(RealPower<C>(params.gamma));
  });
}

Tensor sigmoid_focal_loss(const Tensor& inputs, const Tensor& targets, double alpha, double gamma,
                          const MaybeTensor& class_alpha, const MaybeTensor& class_weight,
                          double label_smoothing, const std::string& form) {
  return *focal(Output::loss, inputs, targets,
                {alpha, gamma, label_smoothing, class_alpha, class_weight, form})
              .elements;
}

Tensor sigmoid_focal_loss_sum(const Tensor& inputs, const Tensor& targets, double alpha,
                              double gamma, const MaybeTensor& class_alpha,
                              const MaybeTensor& class_weight, double label_smoothing,
                              const std::string& form) {
  return *focal(Output::sum, inputs, targets,
                {alpha, gamma, label_smoothing, class_alpha, class_weight, form})
              .sum;
}

std::tuple<Tensor, Tensor> sigmoid_focal_loss_sum_and_gradient(
    const Tensor& inputs, const Tensor& targets, double alpha, double gamma,
    const MaybeTensor& class_alpha, const MaybeTensor& class_weight, double label_smoothing,
    const std::string& form, const MaybeTensor& divisor) {
  FD_CHECK(!divisor || divisor->dim() == 0, "sigmoid_focal_loss: the divisor must be one number");
  const Results both =
      focal(Output::sum_and_gradient, inputs, targets,
            {alpha, gamma, label_smoothing, class_alpha, class_weight, form}, divisor);
  return {*both.sum, *both.elements};
}

Tensor sigmoid_focal_loss_backward(const Tensor& grad, const Tensor& inputs, const Tensor& targets,
                                   double alpha, double gamma, const MaybeTensor& class_alpha,
                                   const MaybeTensor& class_weight, double label_smoothing,
                                   const std::string& form) {
  return *focal(Output::gradient, inputs, targets,
                {alpha, gamma, label_smoothing, class_alpha, class_weight, form}, grad)
              .elements;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(focaldet, CUDA, m) {
  m.impl("sigmoid_focal_loss", TORCH_BOX(&sigmoid_focal_loss));
  m.impl("sigmoid_focal_loss_sum", TORCH_BOX(&sigmoid_focal_loss_sum));
  m.impl("sigmoid_focal_loss_sum_and_gradient", TORCH_BOX(&sigmoid_focal_loss_sum_and_gradient));
  m.impl("sigmoid_focal_loss_backward", TORCH_BOX(&sigmoid_focal_loss_backward));
}

}  // namespace focaldet
