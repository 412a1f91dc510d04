// Box arithmetic on CUDA: IoU of all pairs, encoding and decoding, a launch each and nothing beside
// the result. Arguments of another dtype than the arithmetic's cost a copy each.
//
// Bytes: 4 written per pair of box_iou (8 in float64), its boxes from the caches; 48 per box of the
// others (96). Operations: about 30 per pair, 40 per box encoded, 70 decoded.
#include "../arguments.h"
#include "boxes.cuh"

namespace focaldet {
namespace {

constexpr int kBoxThreads = 256, kRowsPerThread = 8;

// A thread takes a pack of columns of the matrix [n, m], in kRowsPerThread rows.
template <class T>
__global__ void __launch_bounds__(kBoxThreads)
    iou_of_pairs(const T* a, int64_t n, const T* b, int64_t m, T* matrix) {
  constexpr int kSize = Pack<T>::size;
  const int64_t unit = thread_index(), packs = (m + kSize - 1) / kSize;
  const int64_t group = unit / packs, first = (unit - group * packs) * kSize;
  Box<T> right[kSize];
  T right_area[kSize];
#pragma unroll
  for (int k = 0; k < kSize; ++k) {
    right[k] = load_box(b, first + k < m ? first + k : first);
    right_area[k] = area(right[k]);
  }
  const int64_t begin = group * kRowsPerThread;
  const int64_t end = begin + kRowsPerThread < n ? begin + kRowsPerThread : n;
  const auto row = [&](int64_t i) {
    const Box<T> left = load_box(a, i);
    const T left_area = area(left);
    Pack<T> pack;
#pragma unroll
    for (int k = 0; k < kSize; ++k) pack.items[k] = iou(left, left_area, right[k], right_area[k]);
    return pack;
  };
  T* out = matrix + begin * m + first;
  // Two loops: of one with a branch, nvcc would make stores of single elements.
  if (aligned(matrix) && m % kSize == 0) {
    for (int64_t i = begin; i < end; ++i, out += m) *reinterpret_cast<Pack<T>*>(out) = row(i);
    return;
  }
  for (int64_t i = begin; i < end; ++i, out += m) {
    const Pack<T> pack = row(i);
#pragma unroll
    for (int k = 0; k < kSize; ++k) {
      if (first + k < m) out[k] = pack.items[k];
    }
  }
}

struct Encode {
  template <class T>
  __device__ __forceinline__ Box<T> operator()(const Box<T>& gt, const Box<T>& anchor) const {
    return encode(gt, anchor);
  }
};

struct Decode {
  template <class T>
  __device__ __forceinline__ Box<T> operator()(const Box<T>& delta, const Box<T>& anchor) const {
    return decode(delta, anchor);
  }
};

template <class T, class Function>
__global__ void __launch_bounds__(kBoxThreads)
    box_by_box(const T* a, const T* b, int64_t n, const Function function, T* result) {
  for (int64_t i = thread_index(); i < n; i += thread_count()) {
    store_box(result, i, function(load_box(a, i), load_box(b, i)));
  }
}

Tensor box_iou(const Tensor& a, const Tensor& b) {
  check_box_iou(a, b);
  check_device(a, {b}, "box_iou");
  const OnDevice device(a);
  return in_compute_type(a, b, [&](auto tag, const Tensor& a, const Tensor& b) {
    using T = typename decltype(tag)::type;
    const int64_t n = a.size(0), m = b.size(0);
    Tensor matrix = empty({n, m}, a.scalar_type(), a);
    const int64_t packs = (m + Pack<T>::size - 1) / Pack<T>::size;
    const int64_t units = packs * ((n + kRowsPerThread - 1) / kRowsPerThread);
    device.launch({blocks_for(units, kBoxThreads), kBoxThreads}, iou_of_pairs<T>,
                  a.template const_data_ptr<T>(), n, b.template const_data_ptr<T>(), m,
                  matrix.template mutable_data_ptr<T>());
    return matrix;
  });
}

// result[i] = function(a[i], b[i]), shaped like a, in the dtype of the arithmetic.
template <class Function>
Tensor pairwise(const Tensor& a, const Tensor& b, const char* op, const Function& function) {
  check_pairwise(a, b, op);
  check_device(a, {b}, op);
  const OnDevice device(a);
  return in_compute_type(a, b, [&](auto tag, const Tensor& a, const Tensor& b) {
    using T = typename decltype(tag)::type;
    Tensor result = torch::stable::empty_like(a);
    const int64_t n = a.numel() / 4;
    device.launch({blocks_for(n, kBoxThreads), kBoxThreads}, box_by_box<T, Function>,
                  a.template const_data_ptr<T>(), b.template const_data_ptr<T>(), n, function,
                  result.template mutable_data_ptr<T>());
    return result;
  });
}

Tensor encode_boxes(const Tensor& gt_boxes, const Tensor& anchors) {
  return pairwise(gt_boxes, anchors, "encode_boxes", Encode{});
}

Tensor decode_boxes(const Tensor& deltas, const Tensor& anchors) {
  return pairwise(deltas, anchors, "decode_boxes", Decode{});
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(focaldet, CUDA, m) {
  m.impl("box_iou", TORCH_BOX(&box_iou));
  m.impl("encode_boxes", TORCH_BOX(&encode_boxes));
  m.impl("decode_boxes", TORCH_BOX(&decode_boxes));
}

}  // namespace focaldet
