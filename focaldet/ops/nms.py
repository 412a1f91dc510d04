"""Exact non-maximum suppression, drop-in for torchvision's and with fixed shapes."""

from __future__ import annotations

import torch
from torch import Tensor

from . import _check

_ops = torch.ops.focaldet


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """Greedy non-maximum suppression, as torchvision.ops.nms.

    boxes: [N, 4], [x1, y1, x2, y2] in pixels; scores: [N]; any floating dtypes. Returns int64 [k]:
    the kept rows by falling score, ties by the lower row. A box is dropped if its IoU with a
    better kept one exceeds the threshold, rounded to float32 (float64 boxes or scores: all in
    double). Boxes with a NaN coordinate or score are never kept and suppress nothing; neither does
    a union <= 0. Linear memory. Raises TypeError or ValueError on other shapes, dtypes, devices or
    thresholds outside [0, 1].

    Equivalent to ``torchvision.ops.nms(boxes, scores, iou_threshold)``.
    """
    _boxes_and_scores("nms", boxes, scores, ("N", 4))
    return _ops.nms(boxes, scores, _check.number(iou_threshold, "iou_threshold", 0, 1))


def batched_nms(boxes: Tensor, scores: Tensor, idxs: Tensor, iou_threshold: float) -> Tensor:
    """`nms` within each group of equal idxs, as torchvision.ops.batched_nms.

    idxs: integer [N], any values: groups are compared by id, coordinates are never shifted, so a
    group cannot reach into another. Everything else as `nms`; the kept rows of all groups come by
    falling score.

    Equivalent to::

        keep = [rows[nms(boxes[rows], scores[rows], t)] for rows in groups]
        keep = torch.cat(keep); keep[scores[keep].argsort(descending=True, stable=True)]
    """
    _boxes_and_scores("batched_nms", boxes, scores, ("N", 4))
    _check.tensor(idxs, "idxs", (boxes.shape[0],), _check.INTEGER)
    _check.same_device("batched_nms", boxes=boxes, idxs=idxs)
    return _ops.batched_nms(
        boxes, scores, idxs, _check.number(iou_threshold, "iou_threshold", 0, 1)
    )


def nms_padded(
    boxes: Tensor,  # [B, N, 4]
    scores: Tensor,  # [B, N]
    labels: Tensor,  # [B, N]
    iou_threshold: float,
    score_threshold: float = 0.0,
    max_detections: int = 100,
) -> tuple[Tensor, Tensor]:
    """`batched_nms` of every image of a batch, with shapes that do not depend on the values.

    boxes: [B, N, 4]; scores: [B, N], of which those above score_threshold take part; labels:
    integer [B, N], groups as in `batched_nms`. Returns idx, int64 [B, max_detections]: the best
    kept rows of each image by falling score, -1 beyond the count; and count, int64 [B]. No host
    synchronisation. Raises TypeError or ValueError on other shapes, dtypes, devices or ranges.

    Equivalent to, by image::

        rows = (scores > score_threshold).nonzero().flatten()
        rows[batched_nms(boxes[rows], scores[rows], labels[rows], iou_threshold)][:max_detections]
    """
    _boxes_and_scores("nms_padded", boxes, scores, ("B", "N", 4))
    _check.tensor(labels, "labels", tuple(boxes.shape[:2]), _check.INTEGER)
    _check.same_device("nms_padded", boxes=boxes, labels=labels)
    _check.number(iou_threshold, "iou_threshold", 0, 1)
    _check.number(score_threshold, "score_threshold", finite=False)
    _check.count(max_detections, "max_detections")
    return _ops.nms_padded(
        boxes, scores, labels, float(iou_threshold), float(score_threshold), max_detections
    )


def _boxes_and_scores(op: str, boxes: Tensor, scores: Tensor, shape: tuple[int | str, ...]) -> None:
    _check.tensor(boxes, "boxes", shape)
    _check.tensor(scores, "scores", tuple(boxes.shape[:-1]))
    _check.same_device(op, boxes=boxes, scores=scores)


@torch.library.register_fake("focaldet::nms")
def _(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    return _unknown_length(boxes)


@torch.library.register_fake("focaldet::batched_nms")
def _(boxes: Tensor, scores: Tensor, idxs: Tensor, iou_threshold: float) -> Tensor:
    return _unknown_length(boxes)


def _unknown_length(boxes: Tensor) -> Tensor:
    kept = torch.library.get_ctx().new_dynamic_size()
    return boxes.new_empty(kept, dtype=torch.int64)


@torch.library.register_fake("focaldet::nms_padded")
def _(
    boxes: Tensor,
    scores: Tensor,
    labels: Tensor,
    iou_threshold: float,
    score_threshold: float,
    max_detections: int,
) -> tuple[Tensor, Tensor]:
    idx = boxes.new_empty((boxes.shape[0], max_detections), dtype=torch.int64)
    return idx, boxes.new_empty((boxes.shape[0],), dtype=torch.int64)
