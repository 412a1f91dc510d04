// Every operator's schema, in one place, and the extension module with the facts of this build.
//
// Kernels register themselves beside their code (cpu/, cuda/); fakes and derivatives in
// focaldet/ops. An anchor grid travels as numbers, never as a tensor: cell_anchors is [L * A * 4],
// feature_sizes and strides are [L * 2], (height, width) by level.
#include <pybind11/pybind11.h>

#include "cpu/simd.h"
#include "stable.h"

STABLE_TORCH_LIBRARY(focaldet, m) {
  // Focal loss. alpha < 0 turns the balance off; class_alpha [K] replaces alpha.
  m.def(
      "sigmoid_focal_loss(Tensor inputs, Tensor targets, float alpha, float gamma, "
      "Tensor? class_alpha, Tensor? class_weight, float label_smoothing) -> Tensor");
  m.def(
      "sigmoid_focal_loss_sum(Tensor inputs, Tensor targets, float alpha, float gamma, "
      "Tensor? class_alpha, Tensor? class_weight, float label_smoothing) -> Tensor");
  m.def(
      "sigmoid_focal_loss_backward(Tensor grad, Tensor inputs, Tensor targets, float alpha, "
      "float gamma, Tensor? class_alpha, Tensor? class_weight, float label_smoothing) -> Tensor");

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

  // Non-maximum suppression.
  m.def("nms(Tensor boxes, Tensor scores, float iou_threshold) -> Tensor");
  m.def("batched_nms(Tensor boxes, Tensor scores, Tensor idxs, float iou_threshold) -> Tensor");
  m.def(
      "nms_padded(Tensor boxes, Tensor scores, Tensor labels, float iou_threshold, "
      "float score_threshold, SymInt max_detections) -> (Tensor, Tensor)");

  // Raw head outputs to padded detections: boxes, scores, labels, counts.
  m.def(
      "retinanet_postprocess(Tensor[] cls_logits, Tensor[] box_deltas, float[] cell_anchors, "
      "SymInt[] strides, float offset, Tensor image_sizes, float score_threshold, SymInt topk, "
      "float iou_threshold, SymInt max_detections) -> (Tensor, Tensor, Tensor, Tensor)");
}

PYBIND11_MODULE(_C, m) {
  m.doc() = "focaldet's CPU operators, registered with torch on import, and how they were built.";
  m.attr("version") = FOCALDET_VERSION;
  m.attr("built_with_torch") = FOCALDET_TORCH;
  m.attr("compiler") = __VERSION__;
  m.attr("simd_level") = focaldet::simd_name(focaldet::simd_level());
}
