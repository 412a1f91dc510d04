// Centerness targets on CUDA: one launch, a thread per point, 24 bytes read and 4 written for each
// (float32; twice that in float64).
#include "centerness.h"
#include "checks.h"
#include "cuda/boxes.cuh"

namespace focaldet {
namespace {

constexpr int kThreads = 256;

template <class T>
__global__ void __launch_bounds__(kThreads)
    write_centerness(const T* points, const T* boxes, int64_t n, T* targets) {
  for (int64_t i = thread_index(); i < n; i += thread_count()) {
    targets[i] = centerness(points[2 * i], points[2 * i + 1], load_box(boxes, i));
  }
}

Tensor centerness_targets(const Tensor& points, const Tensor& boxes) {
  check_centerness(points, boxes);
  check_device(points, {boxes}, "centerness_targets");
  const OnDevice device(points);
  return in_compute_type(points, boxes, [&](auto tag, const Tensor& points, const Tensor& boxes) {
    using T = typename decltype(tag)::type;
    const int64_t n = points.size(0);
    Tensor targets = empty({n}, points.scalar_type(), points);
    device.launch({blocks_for(n, kThreads), kThreads}, write_centerness<T>,
                  points.template const_data_ptr<T>(), boxes.template const_data_ptr<T>(), n,
                  targets.template mutable_data_ptr<T>());
    return targets;
  });
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(focaldet_example, CUDA, m) {
  m.impl("centerness_targets", TORCH_BOX(&centerness_targets));
}

}  // namespace focaldet
