// Box arithmetic on the CPU: IoU of all pairs, encoding and decoding. One pass each; the matrix of
// box_iou is its output, nothing else is stored.
#include "../arguments.h"
#include "../math/box.h"
#include "memory.h"
#include "simd.h"

namespace focaldet {
namespace {

template <class T>
FD_SIMD_INLINE Box<T> row(const T* data, int64_t i) {
  return {data[4 * i], data[4 * i + 1], data[4 * i + 2], data[4 * i + 3]};
}

Tensor box_iou(const Tensor& a, const Tensor& b) {
  check_box_iou(a, b);
  return in_compute_type(a, b, [](auto tag, const Tensor& a, const Tensor& b) {
    using T = typename decltype(tag)::type;
    const int64_t n = a.size(0), m = b.size(0);
    Tensor result = empty({n, m}, a.scalar_type(), a);
    prefer_huge_pages(result);
    const T *left = a.template const_data_ptr<T>(), *right = b.template const_data_ptr<T>();
    T* out = result.template mutable_data_ptr<T>();
    torch::stable::parallel_for(0, n, 1 + 4096 / (m + 1), [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const Box<T> box = row(left, i);
        const T box_area = area(box);
        vectorised([&]() FD_SIMD_LAMBDA {
          for (int64_t j = 0; j < m; ++j) {
            const Box<T> other{right[4 * j], right[4 * j + 1], right[4 * j + 2], right[4 * j + 3]};
            out[i * m + j] = iou(box, box_area, other, area(other));
          }
        });
      }
    });
    return result;
  });
}

// result[i] = function(a[i], b[i]), shaped like a, in the dtype of the arithmetic.
template <class Function>
Tensor pairwise(const Tensor& a, const Tensor& b, const char* op, Function&& function) {
  check_pairwise(a, b, op);
  return in_compute_type(a, b, [&](auto tag, const Tensor& a, const Tensor& b) {
    using T = typename decltype(tag)::type;
    const Tensor result = torch::stable::empty_like(a);
    const T *left = a.template const_data_ptr<T>(), *right = b.template const_data_ptr<T>();
    T* out = result.template mutable_data_ptr<T>();
    torch::stable::parallel_for(0, a.numel() / 4, 4096, [&](int64_t begin, int64_t end) {
      vectorised([&]() FD_SIMD_LAMBDA {
        for (int64_t i = begin; i < end; ++i) {
          const Box<T> box = function(row(left, i), row(right, i));
          out[4 * i] = box.x1;
          out[4 * i + 1] = box.y1;
          out[4 * i + 2] = box.x2;
          out[4 * i + 3] = box.y2;
        }
      });
    });
    return result;
  });
}

Tensor encode_boxes(const Tensor& gt_boxes, const Tensor& anchors) {
  return pairwise(gt_boxes, anchors, "encode_boxes",
                  [](const auto& gt, const auto& anchor)
                      FD_SIMD_LAMBDA { return encode(gt, anchor); });
}

Tensor decode_boxes(const Tensor& deltas, const Tensor& anchors) {
  return pairwise(deltas, anchors, "decode_boxes",
                  [](const auto& delta, const auto& anchor)
                      FD_SIMD_LAMBDA { return decode(delta, anchor); });
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(focaldet, CPU, m) {
  m.impl("box_iou", TORCH_BOX(&box_iou));
  m.impl("encode_boxes", TORCH_BOX(&encode_boxes));
  m.impl("decode_boxes", TORCH_BOX(&decode_boxes));
}

}  // namespace focaldet
