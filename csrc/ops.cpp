// Every operator's schema, in one place.
//
// Kernels register themselves beside their code (cpu/, cuda/); fakes and derivatives in
// focaldet/ops. An anchor grid travels as numbers, never as a tensor: cell_anchors is [L * A * 4],
// feature_sizes and strides are [L * 2], (height, width) by level.
#include "stable.h"

STABLE_TORCH_LIBRARY(focaldet, m) {
  // Focal loss. alpha < 0 turns the balance off; class_alpha [K] replaces alpha; form is focal,
  // quality or varifocal. _sum_and_gradient takes one pass: the sum over divisor, and its gradient.
  // Softmax: one loss a row, in the dtype of the arithmetic (float32 for the half types).
  m.def(
      "sigmoid_focal_loss(Tensor inputs, Tensor targets, float alpha, float gamma, "
      "Tensor? class_alpha, Tensor? class_weight, float label_smoothing, str form) -> Tensor");
  m.def(
      "sigmoid_focal_loss_sum(Tensor inputs, Tensor targets, float alpha, float gamma, "
      "Tensor? class_alpha, Tensor? class_weight, float label_smoothing, str form) -> Tensor");
  m.def(
      "sigmoid_focal_loss_sum_and_gradient(Tensor inputs, Tensor targets, float alpha, "
      "float gamma, Tensor? class_alpha, Tensor? class_weight, float label_smoothing, str form, "
      "Tensor? divisor) -> (Tensor, Tensor)");
  m.def(
      "sigmoid_focal_loss_backward(Tensor grad, Tensor inputs, Tensor targets, float alpha, "
      "float gamma, Tensor? class_alpha, Tensor? class_weight, float label_smoothing, str form) "
      "-> Tensor");
  m.def(
      "softmax_focal_loss(Tensor inputs, Tensor labels, float alpha, float gamma, "
      "Tensor? class_alpha) -> Tensor");
  m.def(
      "softmax_focal_loss_backward(Tensor grad, Tensor inputs, Tensor labels, float alpha, "
      "float gamma, Tensor? class_alpha) -> Tensor");

  // Anchors and matching. anchors [n, 4], if given, replaces the grid.
  m.def(
      "generate_anchors(Tensor device_of, float[] cell_anchors, SymInt[] feature_sizes, "
      "SymInt[] strides, float offset) -> Tensor");
  m.def(
      "match_anchors(Tensor? anchors, float[] cell_anchors, SymInt[] feature_sizes, "
      "SymInt[] strides, float offset, Tensor gt_boxes, Tensor gt_splits, float fg_iou, "
      "float bg_iou, str low_quality) -> Tensor");
  m.def(
      "count_foreground(Tensor? anchors, float[] cell_anchors, SymInt[] feature_sizes, "
      "SymInt[] strides, float offset, Tensor gt_boxes, Tensor gt_splits, float fg_iou, "
      "float bg_iou, str low_quality) -> Tensor");

  // Boxes.
  m.def("box_iou(Tensor a, Tensor b) -> Tensor");
  m.def("encode_boxes(Tensor gt_boxes, Tensor anchors) -> Tensor");
  m.def("decode_boxes(Tensor deltas, Tensor anchors) -> Tensor");

  // Non-maximum suppression. Without idxs or labels all boxes are one group. nms_match: the kept
  // rows, and for every row the kept one that suppressed it. soft_nms: rows and their new scores.
  m.def("nms(Tensor boxes, Tensor scores, float iou_threshold) -> Tensor");
  m.def("batched_nms(Tensor boxes, Tensor scores, Tensor idxs, float iou_threshold) -> Tensor");
  m.def(
      "nms_padded(Tensor boxes, Tensor scores, Tensor? labels, float iou_threshold, "
      "float score_threshold, SymInt max_detections) -> (Tensor, Tensor)");
  m.def(
      "nms_match(Tensor boxes, Tensor scores, Tensor? idxs, float iou_threshold) "
      "-> (Tensor, Tensor)");
  m.def(
      "soft_nms(Tensor boxes, Tensor scores, Tensor? idxs, float iou_threshold, float sigma, "
      "float min_score, str method) -> (Tensor, Tensor)");

  // Raw head outputs to the losses: classification, box_regression, n_foreground. The losses are
  // divided by the normalizer, or, without one, by the foreground anchors of the batch or image.
  // _and_gradient: in one pass, the gradients by map too, times the incoming ones (none: 1).
  // _overwrite writes them over the maps.
#define FD_HEAD_AND_TRUTH(written_logits, written_deltas)                                     \
  "(Tensor" written_logits "[] cls_logits, Tensor" written_deltas                             \
  "[] box_deltas, "                                                                           \
  "float[] cell_anchors, SymInt[] strides, float offset, Tensor gt_boxes, Tensor gt_labels, " \
  "Tensor gt_splits, float fg_iou, float bg_iou, str low_quality, float alpha, float gamma, " \
  "Tensor? class_alpha, str box_loss, float beta, Tensor? normalizer, bool by_image"
  m.def("retinanet_loss" FD_HEAD_AND_TRUTH("", "") ") -> (Tensor, Tensor, Tensor)");
  m.def("retinanet_loss_and_gradient" FD_HEAD_AND_TRUTH(
      "",
      "") ", Tensor? d_classification, Tensor? d_box_regression) "
          "-> (Tensor, Tensor, Tensor, Tensor[], Tensor[])");
  m.def("retinanet_loss_overwrite" FD_HEAD_AND_TRUTH(
      "(a!)",
      "(b!)") ", Tensor? d_classification, Tensor? d_box_regression) -> (Tensor, Tensor, Tensor)");
#undef FD_HEAD_AND_TRUTH

  // Raw head outputs to padded detections: boxes, scores, labels, counts. NMS is per class, or over
  // all classes.
  m.def(
      "retinanet_postprocess(Tensor[] cls_logits, Tensor[] box_deltas, float[] cell_anchors, "
      "SymInt[] strides, float offset, Tensor image_sizes, float score_threshold, SymInt topk, "
      "float iou_threshold, SymInt max_detections, bool class_agnostic) "
      "-> (Tensor, Tensor, Tensor, Tensor)");
}
