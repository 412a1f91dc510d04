// Softmax focal loss on CUDA: a warp per row, and its gradient.
//
// With z = x_t - ln sum_{j != t} e^x_j, the chance of the right class is sigma(z), so that the loss
// is that of one logit against a hard target (math/focal.h), L(z), and
//   d/dx_t = L'(z),   d/dx_j = -L'(z) e^x_j / sum_{i != t} e^x_i   for the others.
// A warp reads its row twice, the second time from the cache: the largest of the other logits, then
// the sum of their exponentials. The gradient reads it a third time.
// Bytes, with S the size of the logits: S for the loss, 2 S for the gradient, and 8 per row for the
// label. Operations: about 25 per logit, 50 for the gradient.
#include <limits>

#include "../arguments.h"
#include "launch.cuh"

namespace focaldet {
namespace {

using MaybeTensor = std::optional<Tensor>;
constexpr int kThreads = 256;
constexpr int64_t kMaxBlocks = 8192;  // a few times what the largest GPU holds at once

template <class T>
struct SoftmaxProblem {
  using C = compute_t<T>;
  int64_t rows, classes;
  const T* inputs;
  const int64_t* labels;
  C alpha;
  const C* class_alpha;  // null: alpha
};

// What a row says: every lane knows.
template <class C>
struct Row {
  bool counted;
  int64_t label;
  C largest, sum;  // of the logits of other classes; of e^(x - largest) over them
  C z;
};

template <class C, class Combine>
__device__ __forceinline__ C over_warp(C value, Combine&& combine) {
#pragma unroll
  for (int bits = kWarp / 2; bits > 0; bits /= 2) {
    value = combine(value, __shfl_xor_sync(kAllLanes, value, bits));
  }
  return value;
}

// e^(x - largest), where two equal infinities differ by nothing.
template <class C>
__device__ __forceinline__ C relative_exp(C x, C largest) {
  return x == largest ? C(1) : exp_(x - largest);
}

template <class T>
__device__ __forceinline__ Row<compute_t<T>> read_row(const SoftmaxProblem<T>& p, int64_t index) {
  using C = compute_t<T>;
  constexpr C kFar = std::numeric_limits<C>::infinity();
  const int64_t label = p.labels[index];
  Row<C> row{label >= 0 && label < p.classes, label, -kFar, C(0), C(0)};
  if (!row.counted) return row;
  const T* x = p.inputs + index * p.classes;
  for (int64_t k = threadIdx.x % kWarp; k < p.classes; k += kWarp) {
    const C value = static_cast<C>(x[k]);
    if (k != label && !(value <= row.largest)) row.largest = value;  // a NaN is the largest
  }
  row.largest = over_warp(row.largest, [](C a, C b) { return a >= b || a != a ? a : b; });
  for (int64_t k = threadIdx.x % kWarp; k < p.classes; k += kWarp) {
    if (k != label) row.sum += relative_exp(static_cast<C>(x[k]), row.largest);
  }
  row.sum = over_warp(row.sum, [](C a, C b) { return a + b; });
  // Alone, or against classes that cannot be, the label is certain.
  row.z = p.classes == 1 ? kFar : (static_cast<C>(x[label]) - row.largest) - std::log(row.sum);
  return row;
}

template <class T>
__device__ __forceinline__ compute_t<T> row_weight(const SoftmaxProblem<T>& p, int64_t label) {
  const compute_t<T> alpha = p.class_alpha != nullptr ? p.class_alpha[label] : p.alpha;
  return alpha < 0 ? compute_t<T>(1) : alpha;
}

// body(row) for every row of this warp.
template <class Body>
__device__ __forceinline__ void for_each_row(int64_t rows, Body&& body) {
  for (int64_t row = thread_index() / kWarp; row < rows; row += thread_count() / kWarp) body(row);
}

template <class T>
__global__ void __launch_bounds__(kThreads)
    softmax_focal(const SoftmaxProblem<T> p, const RealPower<compute_t<T>> power,
                  compute_t<T>* out) {
  using C = compute_t<T>;
  for_each_row(p.rows, [&](int64_t index) {
    const Row<C> row = read_row(p, index);
    if (threadIdx.x % kWarp != 0) return;
    C loss = 0;
    if (row.counted) loss = weigh(row_weight(p, row.label), focal_hard(row.z, C(1), power).loss);
    out[index] = loss;
  });
}

// The incoming factor is one number (step 0) or one per row (step 1).
template <class T>
__global__ void __launch_bounds__(kThreads, 6)  // else nvcc spills, for more blocks
    softmax_focal_gradient(const SoftmaxProblem<T> p, const RealPower<compute_t<T>> power,
                           const compute_t<T>* incoming, int64_t step, T* out) {
  using C = compute_t<T>;
  for_each_row(p.rows, [&](int64_t index) {
    const Row<C> row = read_row(p, index);
    const int64_t first = index * p.classes;
    C slope = 0, others = 0;
    if (row.counted) {
      slope = incoming[index * step] *
              weigh(row_weight(p, row.label), focal_hard(row.z, C(1), power).grad);
      others = slope == C(0) ? C(0) : -slope / row.sum;
    }
    for (int64_t k = threadIdx.x % kWarp; k < p.classes; k += kWarp) {
      C gradient = slope;
      if (row.counted && k != row.label) {
        gradient = weigh(others, relative_exp(static_cast<C>(p.inputs[first + k]), row.largest));
      }
      out[first + k] = static_cast<T>(gradient);
    }
  });
}

Tensor run(const Tensor& inputs, const Tensor& labels, double alpha, double gamma,
           const MaybeTensor& class_alpha, const MaybeTensor& grad) {
  constexpr const char* kOp = "softmax_focal_loss";
  check_device(inputs, {labels, class_alpha, grad}, kOp);
  const int64_t classes = check_softmax_focal_loss(inputs, labels, class_alpha, grad);
  const int64_t rows = labels.numel();
  const ScalarType wide = compute_dtype(inputs);
  const Tensor x = dense(inputs), t = dense(labels);
  const MaybeTensor alphas = class_alpha ? MaybeTensor(dense(*class_alpha, wide)) : std::nullopt;
  const MaybeTensor up = grad ? MaybeTensor(dense(*grad, wide)) : std::nullopt;
  Tensor result =
      grad ? torch::stable::empty_like(x) : torch::stable::new_empty(x, labels.sizes(), wide);
  const OnDevice device(x);
  dispatch_floating(x.scalar_type(), kOp, [&](auto tag) {
    using T = typename decltype(tag)::type;
    using C = compute_t<T>;
    const SoftmaxProblem<T> problem{rows,
                                    classes,
                                    x.const_data_ptr<T>(),
                                    t.const_data_ptr<int64_t>(),
                                    static_cast<C>(alpha),
                                    alphas ? alphas->template const_data_ptr<C>() : nullptr};
    const Grid grid{blocks_for(rows, kThreads / kWarp, kMaxBlocks), kThreads};
    // One number of each row meets the power: one kernel does for every exponent.
    const RealPower<C> power(gamma);
    if (!grad)
      return device.launch(grid, softmax_focal<T>, problem, power, result.mutable_data_ptr<C>());
    device.launch(grid, softmax_focal_gradient<T>, problem, power, up->template const_data_ptr<C>(),
                  int64_t{up->dim() > 0}, result.mutable_data_ptr<T>());
  });
  return result;
}

Tensor softmax_focal_loss(const Tensor& inputs, const Tensor& labels, double alpha, double gamma,
                          const MaybeTensor& class_alpha) {
  return run(inputs, labels, alpha, gamma, class_alpha, std::nullopt);
}

Tensor softmax_focal_loss_backward(const Tensor& grad, const Tensor& inputs, const Tensor& labels,
                                   double alpha, double gamma, const MaybeTensor& class_alpha) {
  return run(inputs, labels, alpha, gamma, class_alpha, grad);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(focaldet, CUDA, m) {
  m.impl("softmax_focal_loss", TORCH_BOX(&softmax_focal_loss));
  m.impl("softmax_focal_loss_backward", TORCH_BOX(&softmax_focal_loss_backward));
}

}  // namespace focaldet
