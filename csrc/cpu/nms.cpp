// Non-maximum suppression on the CPU: the operators around greedy_nms.h.
#include <limits>

#include "../arguments.h"
#include "greedy_nms.h"

namespace focaldet {
namespace {

// Boxes, scores and groups of one image or of several, dense.
template <class T>
struct Inputs {
  Tensor boxes, scores;
  std::optional<Tensor> groups;

  NmsProblem<T> problem(int64_t image, int64_t n, double iou_threshold, int64_t limit) const {
    return {n,
            reinterpret_cast<const Box<T>*>(boxes.const_data_ptr<T>()) + image * n,
            scores.const_data_ptr<T>() + image * n,
            groups ? groups->const_data_ptr<int64_t>() + image * n : nullptr,
            static_cast<T>(iou_threshold),
            std::nullopt,
            limit};
  }
};

// body(Inputs<T>)
template <class Body>
void with_inputs(const Tensor& boxes, const Tensor& scores, const std::optional<Tensor>& groups,
                 Body&& body) {
  in_type_of(boxes, scores, [&](auto tag, ScalarType dtype) {
    using T = typename decltype(tag)::type;
    body(Inputs<T>{dense(boxes, dtype), dense(scores, dtype), dense(groups, ScalarType::Long)});
  });
}

Tensor as_tensor(const std::vector<int64_t>& rows, const Tensor& like) {
  Tensor tensor = empty({static_cast<int64_t>(rows.size())}, ScalarType::Long, like);
  std::copy(rows.begin(), rows.end(), tensor.mutable_data_ptr<int64_t>());
  return tensor;
}

Tensor one_image(const Tensor& boxes, const Tensor& scores, const std::optional<Tensor>& groups,
                 double iou_threshold, int64_t* match = nullptr) {
  std::vector<int64_t> keep;
  with_inputs(boxes, scores, groups, [&](const auto& inputs) {
    const int64_t n = boxes.size(0);
    keep = greedy_nms(inputs.problem(0, n, iou_threshold, n), match);
  });
  return as_tensor(keep, boxes);
}

Tensor nms(const Tensor& boxes, const Tensor& scores, double iou_threshold) {
  check_nms(boxes, scores, std::nullopt, iou_threshold, "nms");
  return one_image(boxes, scores, std::nullopt, iou_threshold);
}

Tensor batched_nms(const Tensor& boxes, const Tensor& scores, const Tensor& idxs,
                   double iou_threshold) {
  check_nms(boxes, scores, idxs, iou_threshold, "batched_nms");
  return one_image(boxes, scores, idxs, iou_threshold);
}

std::tuple<Tensor, Tensor> nms_match(const Tensor& boxes, const Tensor& scores,
                                     const std::optional<Tensor>& idxs, double iou_threshold) {
  check_nms(boxes, scores, idxs, iou_threshold, "nms_match");
  Tensor match = empty({boxes.size(0)}, ScalarType::Long, boxes);
  const Tensor keep =
      one_image(boxes, scores, idxs, iou_threshold, match.mutable_data_ptr<int64_t>());
  return {keep, match};
}

std::tuple<Tensor, Tensor> nms_padded(const Tensor& boxes, const Tensor& scores,
                                      const std::optional<Tensor>& labels, double iou_threshold,
                                      double score_threshold, int64_t max_detections) {
  check_nms_padded(boxes, scores, labels, iou_threshold, score_threshold, max_detections);
  const int64_t images = boxes.size(0), n = boxes.size(1);
  Tensor idx = full({images, max_detections}, ScalarType::Long, boxes, -1);
  Tensor count = full({images}, ScalarType::Long, boxes, 0);
  int64_t *rows = idx.mutable_data_ptr<int64_t>(), *counts = count.mutable_data_ptr<int64_t>();
  with_inputs(boxes, scores, labels, [&](const auto& inputs) {
    const auto each = [&](int64_t begin, int64_t end) {
      for (int64_t image = begin; image < end; ++image) {
        auto problem = inputs.problem(image, n, iou_threshold, max_detections);
        using T = std::decay_t<decltype(problem.iou_threshold)>;
        problem.score_threshold = static_cast<T>(rounded_as(scores, score_threshold));
        const std::vector<int64_t> keep = greedy_nms(problem);
        std::copy(keep.begin(), keep.end(), rows + image * max_detections);
        counts[image] = static_cast<int64_t>(keep.size());
      }
    };
    if (images == 1 || n >= kHugeGroup) {  // an image has the threads for itself
      each(0, images);
    } else {
      torch::stable::parallel_for(0, images, 1, each);
    }
  });
  return {idx, count};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(focaldet, CPU, m) {
  m.impl("nms", TORCH_BOX(&nms));
  m.impl("batched_nms", TORCH_BOX(&batched_nms));
  m.impl("nms_match", TORCH_BOX(&nms_match));
  m.impl("nms_padded", TORCH_BOX(&nms_padded));
}

}  // namespace focaldet
