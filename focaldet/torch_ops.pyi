# Written by tests/stubs.py from the operators' schemas (csrc/ops.cpp): do not edit.
from collections.abc import Sequence

from torch import Tensor

def batched_nms(
    boxes: Tensor,
    scores: Tensor,
    idxs: Tensor,
    iou_threshold: float,
) -> Tensor: ...
def box_iou(
    a: Tensor,
    b: Tensor,
) -> Tensor: ...
def count_foreground(
    anchors: Tensor | None,
    cell_anchors: Sequence[float],
    feature_sizes: Sequence[int],
    strides: Sequence[int],
    offset: float,
    gt_boxes: Tensor,
    gt_splits: Tensor,
    fg_iou: float,
    bg_iou: float,
    low_quality: str,
) -> Tensor: ...
def decode_boxes(
    deltas: Tensor,
    anchors: Tensor,
) -> Tensor: ...
def encode_boxes(
    gt_boxes: Tensor,
    anchors: Tensor,
) -> Tensor: ...
def generate_anchors(
    device_of: Tensor,
    cell_anchors: Sequence[float],
    feature_sizes: Sequence[int],
    strides: Sequence[int],
    offset: float,
) -> Tensor: ...
def match_anchors(
    anchors: Tensor | None,
    cell_anchors: Sequence[float],
    feature_sizes: Sequence[int],
    strides: Sequence[int],
    offset: float,
    gt_boxes: Tensor,
    gt_splits: Tensor,
    fg_iou: float,
    bg_iou: float,
    low_quality: str,
) -> Tensor: ...
def nms(
    boxes: Tensor,
    scores: Tensor,
    iou_threshold: float,
) -> Tensor: ...
def nms_match(
    boxes: Tensor,
    scores: Tensor,
    idxs: Tensor | None,
    iou_threshold: float,
) -> tuple[Tensor, Tensor]: ...
def nms_padded(
    boxes: Tensor,
    scores: Tensor,
    labels: Tensor | None,
    iou_threshold: float,
    score_threshold: float,
    max_detections: int,
) -> tuple[Tensor, Tensor]: ...
def retinanet_loss(
    cls_logits: Sequence[Tensor],
    box_deltas: Sequence[Tensor],
    cell_anchors: Sequence[float],
    strides: Sequence[int],
    offset: float,
    gt_boxes: Tensor,
    gt_labels: Tensor,
    gt_splits: Tensor,
    fg_iou: float,
    bg_iou: float,
    low_quality: str,
    alpha: float,
    gamma: float,
    class_alpha: Tensor | None,
    box_loss: str,
    beta: float,
    normalizer: Tensor | None,
    by_image: bool,
) -> tuple[Tensor, Tensor, Tensor]: ...
def retinanet_loss_and_gradient(
    cls_logits: Sequence[Tensor],
    box_deltas: Sequence[Tensor],
    cell_anchors: Sequence[float],
    strides: Sequence[int],
    offset: float,
    gt_boxes: Tensor,
    gt_labels: Tensor,
    gt_splits: Tensor,
    fg_iou: float,
    bg_iou: float,
    low_quality: str,
    alpha: float,
    gamma: float,
    class_alpha: Tensor | None,
    box_loss: str,
    beta: float,
    normalizer: Tensor | None,
    by_image: bool,
    d_classification: Tensor | None,
    d_box_regression: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, list[Tensor], list[Tensor]]: ...
def retinanet_loss_overwrite(
    cls_logits: Sequence[Tensor],
    box_deltas: Sequence[Tensor],
    cell_anchors: Sequence[float],
    strides: Sequence[int],
    offset: float,
    gt_boxes: Tensor,
    gt_labels: Tensor,
    gt_splits: Tensor,
    fg_iou: float,
    bg_iou: float,
    low_quality: str,
    alpha: float,
    gamma: float,
    class_alpha: Tensor | None,
    box_loss: str,
    beta: float,
    normalizer: Tensor | None,
    by_image: bool,
    d_classification: Tensor | None,
    d_box_regression: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]: ...
def retinanet_postprocess(
    cls_logits: Sequence[Tensor],
    box_deltas: Sequence[Tensor],
    cell_anchors: Sequence[float],
    strides: Sequence[int],
    offset: float,
    image_sizes: Tensor,
    score_threshold: float,
    topk: int,
    iou_threshold: float,
    max_detections: int,
    class_agnostic: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]: ...
def sigmoid_focal_loss(
    inputs: Tensor,
    targets: Tensor,
    alpha: float,
    gamma: float,
    class_alpha: Tensor | None,
    class_weight: Tensor | None,
    label_smoothing: float,
    form: str,
) -> Tensor: ...
def sigmoid_focal_loss_backward(
    grad: Tensor,
    inputs: Tensor,
    targets: Tensor,
    alpha: float,
    gamma: float,
    class_alpha: Tensor | None,
    class_weight: Tensor | None,
    label_smoothing: float,
    form: str,
) -> Tensor: ...
def sigmoid_focal_loss_sum(
    inputs: Tensor,
    targets: Tensor,
    alpha: float,
    gamma: float,
    class_alpha: Tensor | None,
    class_weight: Tensor | None,
    label_smoothing: float,
    form: str,
) -> Tensor: ...
def sigmoid_focal_loss_sum_and_gradient(
    inputs: Tensor,
    targets: Tensor,
    alpha: float,
    gamma: float,
    class_alpha: Tensor | None,
    class_weight: Tensor | None,
    label_smoothing: float,
    form: str,
    divisor: Tensor | None,
) -> tuple[Tensor, Tensor]: ...
def soft_nms(
    boxes: Tensor,
    scores: Tensor,
    idxs: Tensor | None,
    iou_threshold: float,
    sigma: float,
    min_score: float,
    method: str,
) -> tuple[Tensor, Tensor]: ...
def softmax_focal_loss(
    inputs: Tensor,
    labels: Tensor,
    alpha: float,
    gamma: float,
    class_alpha: Tensor | None,
) -> Tensor: ...
def softmax_focal_loss_backward(
    grad: Tensor,
    inputs: Tensor,
    labels: Tensor,
    alpha: float,
    gamma: float,
    class_alpha: Tensor | None,
) -> Tensor: ...
