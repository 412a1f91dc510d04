// What the CPU and the CUDA kernels make of their arguments, once for both: checks that keep memory
// safe (the wrappers in focaldet/ops check more, and explain it to people), and the arithmetic's
// type.
#pragma once

#include "math/box_loss.h"
#include "math/focal.h"
#include "math/soft_nms.h"
#include "stable.h"

namespace focaldet {

// The value that a name of the schemas stands for.
template <class Value>
Value named(const std::string& name, const char* argument,
            std::initializer_list<std::pair<const char*, Value>> values) {
  for (const auto& [known, value] : values) {
    if (name == known) return value;
  }
  FD_CHECK(false, argument, ": unknown name ", name);
}

inline FocalForm focal_form(const std::string& name, const std::optional<Tensor>& class_alpha) {
  FD_CHECK(!class_alpha || name == "focal", "alpha: by class only with form focal");
  return named<FocalForm>(name, "form",
                          {{"focal", FocalForm::focal},
                           {"quality", FocalForm::quality},
                           {"varifocal", FocalForm::varifocal}});
}

inline BoxLoss box_loss_kind(const std::string& name) {
  return named<BoxLoss>(name, "box_loss",
                        {{"smooth_l1", BoxLoss::smooth_l1},
                         {"l1", BoxLoss::l1},
                         {"giou", BoxLoss::giou},
                         {"diou", BoxLoss::diou},
                         {"ciou", BoxLoss::ciou}});
}

enum class LowQuality { none, torchvision, mmdet };

inline LowQuality low_quality_rule(const std::string& name) {
  return named<LowQuality>(name, "low_quality",
                           {{"none", LowQuality::none},
                            {"torchvision", LowQuality::torchvision},
                            {"mmdet", LowQuality::mmdet}});
}

// Logits are rows of classes; targets are labels, one per row, or values, one per logit.
struct FocalShape {
  bool labelled;
  int64_t rows, classes, total;
};

inline FocalShape check_focal_loss(const Tensor& inputs, const Tensor& targets,
                                   const std::optional<Tensor>& grad) {
  const bool labelled = targets.scalar_type() == ScalarType::Long;
  FD_CHECK(!labelled || inputs.dim() >= 1, "sigmoid_focal_loss: labels need a class dimension");
  const int64_t classes = inputs.dim() == 0 ? 1 : inputs.size(inputs.dim() - 1);
  const int64_t total = inputs.numel(), rows = classes == 0 ? 0 : total / classes;
  FD_CHECK(targets.numel() == (labelled ? rows : total) || total == 0,
           "sigmoid_focal_loss: targets do not fit the logits");
  FD_CHECK(!grad || grad->dim() == 0 || grad->numel() == total,
           "sigmoid_focal_loss: the gradient does not fit the logits");
  return {labelled, rows, classes, total};
}

inline void check_per_class(const Tensor& table, int64_t classes, const char* name) {
  FD_CHECK(table.dim() == 1 && table.size(0) == classes, name, " must have one value per class");
}

inline void check_ground_truth(const Tensor& gt_boxes, const Tensor& gt_splits, const char* op) {
  FD_CHECK(gt_boxes.dim() == 2 && gt_boxes.size(1) == 4, op, ": gt_boxes must be [T, 4]");
  FD_CHECK(
      gt_splits.dim() == 1 && gt_splits.size(0) >= 1 && gt_splits.scalar_type() == ScalarType::Long,
      op, ": gt_splits must be int64 [B + 1]");
}

// Returns the number of classes. Loss and gradient of a loss have the shape of the labels.
inline int64_t check_softmax_focal_loss(const Tensor& inputs, const Tensor& labels,
                                        const std::optional<Tensor>& class_alpha,
                                        const std::optional<Tensor>& grad) {
  const int64_t dims = labels.dim();
  FD_CHECK(labels.scalar_type() == ScalarType::Long, "softmax_focal_loss: labels must be int64");
  FD_CHECK(inputs.dim() == dims + 1, "softmax_focal_loss: labels do not fit the logits");
  for (int64_t i = 0; i < dims; ++i) {
    FD_CHECK(labels.size(i) == inputs.size(i), "softmax_focal_loss: labels do not fit the logits");
  }
  const int64_t classes = inputs.size(dims);
  FD_CHECK(!class_alpha || (class_alpha->dim() == 1 && class_alpha->size(0) == classes),
           "softmax_focal_loss: alpha must have one value per class");
  FD_CHECK(!grad || grad->dim() == 0 || grad->numel() == labels.numel(),
           "softmax_focal_loss: the gradient does not fit the labels");
  return classes;
}

inline void check_iou_threshold(double iou_threshold, const char* op) {
  // Below 0 boxes that do not touch would suppress each other, and no pruning could be exact.
  FD_CHECK(iou_threshold >= 0, op, ": iou_threshold must be at least 0");
}

inline void check_nms(const Tensor& boxes, const Tensor& scores, const std::optional<Tensor>& idxs,
                      double iou_threshold, const char* op) {
  FD_CHECK(boxes.dim() == 2 && boxes.size(1) == 4, op, ": boxes must be [N, 4]");
  FD_CHECK(scores.dim() == 1 && scores.size(0) == boxes.size(0), op, ": scores must be [N]");
  FD_CHECK(!idxs || (idxs->dim() == 1 && idxs->size(0) == boxes.size(0)), op, ": idxs must be [N]");
  check_iou_threshold(iou_threshold, op);
}

inline void check_nms_padded(const Tensor& boxes, const Tensor& scores,
                             const std::optional<Tensor>& labels, double iou_threshold,
                             double score_threshold, int64_t max_detections) {
  FD_CHECK(boxes.dim() == 3 && boxes.size(2) == 4, "nms_padded: boxes must be [B, N, 4]");
  for (const std::optional<Tensor>& each : {std::optional<Tensor>(scores), labels}) {
    FD_CHECK(!each || (each->dim() == 2 && each->size(0) == boxes.size(0) &&
                       each->size(1) == boxes.size(1)),
             "nms_padded: scores and labels must be [B, N]");
  }
  check_iou_threshold(iou_threshold, "nms_padded");
  FD_CHECK(score_threshold == score_threshold, "nms_padded: score_threshold must not be NaN");
  FD_CHECK(max_detections >= 0, "nms_padded: max_detections must not be negative");
}

inline void check_soft_nms(const Tensor& boxes, const Tensor& scores,
                           const std::optional<Tensor>& idxs, double iou_threshold, double sigma,
                           double min_score) {
  check_nms(boxes, scores, idxs, iou_threshold, "soft_nms");
  FD_CHECK(sigma > 0, "soft_nms: sigma must be positive");
  // A negative score would rise where it decays.
  FD_CHECK(min_score >= 0, "soft_nms: min_score must be at least 0");
}

inline SoftNms soft_nms_method(const std::string& name) {
  return named<SoftNms>(name, "method",
                        {{"linear", SoftNms::linear}, {"gaussian", SoftNms::gaussian}});
}

// Arithmetic in double where one of two tensors is, as torch promotes: body(Tag<T>{}, dtype).
template <class Body>
auto in_type_of(const Tensor& a, const Tensor& b, Body&& body) {
  const bool wide =
      compute_dtype(a) == ScalarType::Double || compute_dtype(b) == ScalarType::Double;
  return wide ? body(Tag<double>{}, ScalarType::Double) : body(Tag<float>{}, ScalarType::Float);
}

// Two tensors of boxes in the type of the arithmetic: body(Tag<T>{}, a, b). The half types are
// widened first: the area of a 300 px box overflows float16.
template <class Body>
Tensor in_compute_type(const Tensor& a, const Tensor& b, Body&& body) {
  return in_type_of(a, b, [&](auto tag, ScalarType dtype) {
    return body(tag, dense(a, dtype), dense(b, dtype));
  });
}

inline void check_box_iou(const Tensor& a, const Tensor& b) {
  FD_CHECK(a.dim() == 2 && a.size(1) == 4 && b.dim() == 2 && b.size(1) == 4,
           "box_iou: boxes must be [N, 4] and [M, 4]");
}

inline void check_pairwise(const Tensor& a, const Tensor& b, const char* op) {
  check_boxes(a, op, "the first argument");
  FD_CHECK(a.numel() == b.numel(), op, ": both arguments must have the same number of rows");
}

}  // namespace focaldet
