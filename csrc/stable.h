// Everything that focaldet takes from PyTorch, through the LibTorch stable ABI alone: one binary
// serves every torch from 2.10 on. No other file includes a torch header.
#pragma once

#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/macros.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Exception.h>
#include <torch/headeronly/util/Half.h>
#include <torch/headeronly/util/shim_utils.h>

#include <cstdint>
#include <initializer_list>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

// The wrappers in focaldet/ops explain bad arguments to people; these checks keep memory safe
// whoever calls the operator.
#define FD_CHECK(condition, ...) STD_TORCH_CHECK(condition, "focaldet: ", __VA_ARGS__)

namespace focaldet {

using torch::headeronly::BFloat16;
using torch::headeronly::Half;
using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// Arithmetic is float32, float64 for float64; the half types are storage only.
template <class T>
struct Compute {
  using type = float;
};
template <>
struct Compute<double> {
  using type = double;
};
template <class T>
using compute_t = typename Compute<T>::type;

template <class T>
struct Tag {
  using type = T;
};

// Calls body(Tag<T>{}) with the C++ type of a floating dtype.
template <class Body>
auto dispatch_floating(ScalarType dtype, const char* op, Body&& body) {
  switch (dtype) {
    case ScalarType::Float:
      return body(Tag<float>{});
    case ScalarType::Double:
      return body(Tag<double>{});
    case ScalarType::Half:
      return body(Tag<Half>{});
    case ScalarType::BFloat16:
      return body(Tag<BFloat16>{});
    default:
      FD_CHECK(false, op, " takes float16, bfloat16, float32 or float64");
  }
}

inline Tensor empty(std::initializer_list<int64_t> sizes, ScalarType dtype, const Tensor& like) {
  return torch::stable::new_empty(like, sizes, dtype);
}

inline Tensor full(std::initializer_list<int64_t> sizes, ScalarType dtype, const Tensor& like,
                   double value) {
  Tensor result = empty(sizes, dtype, like);
  torch::stable::fill_(result, value);
  return result;
}

// Ascending along the last dimension, NaN last, equal values in their old order: values, indices.
inline std::tuple<Tensor, Tensor> stable_sort(const Tensor& values) {
  using torch::stable::detail::from;
  StableIValue stack[] = {from(values), from(std::optional<bool>(true)), from(int64_t{-1}),
                          from(false)};
  TORCH_ERROR_CODE_CHECK(torch_call_dispatcher("aten::sort", "stable", stack, TORCH_ABI_VERSION));
  return {torch::stable::detail::to<Tensor>(stack[0]), torch::stable::detail::to<Tensor>(stack[1])};
}

// The one value of an int64 tensor; waits for its device.
inline int64_t item(const Tensor& tensor) {
  const torch::stable::Device cpu(torch::headeronly::DeviceType::CPU);
  return torch::stable::to(tensor, cpu).const_data_ptr<int64_t>()[0];
}

// Dense, row-major, in the given dtype; itself where it already is.
inline Tensor dense(const Tensor& tensor, ScalarType dtype) {
  const Tensor typed = tensor.scalar_type() == dtype ? tensor : torch::stable::to(tensor, dtype);
  return torch::stable::contiguous(typed);
}
inline Tensor dense(const Tensor& tensor) { return torch::stable::contiguous(tensor); }
inline std::optional<Tensor> dense(const std::optional<Tensor>& tensor, ScalarType dtype) {
  return tensor ? std::optional(dense(*tensor, dtype)) : std::nullopt;
}

// The value of a CPU tensor of one number, or another where there is none.
inline double number_in(const std::optional<Tensor>& tensor, double otherwise) {
  if (!tensor) return otherwise;
  FD_CHECK(tensor->numel() == 1, "expected a tensor of one number");
  return dense(*tensor, ScalarType::Double).const_data_ptr<double>()[0];
}

inline ScalarType compute_dtype(const Tensor& tensor) {
  return tensor.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

// A threshold as it compares with scores of this dtype, whatever the arithmetic on the boxes is.
inline double rounded_as(const Tensor& scores, double threshold) {
  const bool wide = compute_dtype(scores) == ScalarType::Double;
  return wide ? threshold : static_cast<float>(threshold);
}

inline void check_boxes(const Tensor& boxes, const char* op, const char* name) {
  FD_CHECK(boxes.dim() >= 1 && boxes.size(boxes.dim() - 1) == 4, op, ": ", name,
           " must end in a dimension of 4");
}

}  // namespace focaldet
