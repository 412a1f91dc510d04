"""Exact non-maximum suppression, drop-in for torchvision's and with fixed shapes."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import torch_ops as _ops
from . import _check
from .choices import SOFT_NMS, SoftNms


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

    Equivalent to:

    ```python
    keep = [rows[nms(boxes[rows], scores[rows], t)] for rows in groups]
    keep = torch.cat(keep); keep[scores[keep].argsort(descending=True, stable=True)]
    ```
    """
    _boxes_and_scores("batched_nms", boxes, scores, ("N", 4))
    _check.tensor(idxs, "idxs", None, _check.INTEGER)  # not optional here
    _groups("batched_nms", boxes, idxs=idxs)
    return _ops.batched_nms(
        boxes, scores, idxs, _check.number(iou_threshold, "iou_threshold", 0, 1)
    )


def nms_padded(
    boxes: Tensor,  # [B, N, 4]
    scores: Tensor,  # [B, N]
    labels: Tensor | None,  # [B, N]
    iou_threshold: float,
    score_threshold: float = 0.0,
    max_detections: int = 100,
) -> tuple[Tensor, Tensor]:
    """`batched_nms` of every image of a batch, with shapes that do not depend on the values.

    boxes: [B, N, 4]; scores: [B, N], of which those above score_threshold take part; labels:
    integer [B, N], groups as in `batched_nms`, or None: every image is one group. Returns idx,
    int64 [B, max_detections]: the best kept rows of each image by falling score, -1 beyond the
    count; and count, int64 [B]. No host synchronisation. Raises TypeError or ValueError on other
    shapes, dtypes, devices or ranges.

    Equivalent to, by image:

    ```python
    rows = (scores > score_threshold).nonzero().flatten()
    rows[batched_nms(boxes[rows], scores[rows], labels[rows], iou_threshold)][:max_detections]
    ```
    """
    _boxes_and_scores("nms_padded", boxes, scores, ("B", "N", 4))
    _groups("nms_padded", boxes, labels=labels)
    _check.number(iou_threshold, "iou_threshold", 0, 1)
    _check.number(score_threshold, "score_threshold", finite=False)
    _check.count(max_detections, "max_detections")
    return _ops.nms_padded(
        boxes, scores, labels, float(iou_threshold), float(score_threshold), max_detections
    )


def nms_match(
    boxes: Tensor,  # [N, 4]
    scores: Tensor,  # [N]
    iou_threshold: float,
    idxs: Tensor | None = None,  # [N]
) -> tuple[Tensor, Tensor]:
    """`batched_nms`, and which kept box suppressed which.

    idxs: groups as in `batched_nms`, or None: all boxes are one group. Returns keep, int64 [k], as
    `nms`; and match, int64 [N]: for a suppressed row the best kept row that overlaps it by more
    than the threshold, for a kept row itself, -1 for a row with a NaN. So ``match == keep[i]`` is
    the cluster of detection i, for voting or merging. Raises as `nms`.

    Equivalent to `focaldet.reference.nms_match`; ``mmcv.ops.nms_match`` lists the clusters.
    """
    _boxes_and_scores("nms_match", boxes, scores, ("N", 4))
    _groups("nms_match", boxes, idxs=idxs)
    return _ops.nms_match(boxes, scores, idxs, _check.number(iou_threshold, "iou_threshold", 0, 1))


def soft_nms(
    boxes: Tensor,  # [N, 4]
    scores: Tensor,  # [N]
    iou_threshold: float = 0.3,
    sigma: float = 0.5,
    min_score: float = 1e-3,
    method: SoftNms = "linear",
    idxs: Tensor | None = None,  # [N]
) -> tuple[Tensor, Tensor]:
    """Soft-NMS (Bodla et al. 2017), exact: overlapped boxes lose score instead of being dropped.

    The best box is kept, and the score of every other box of its group is multiplied by its weight:
    "linear", 1 - IoU where the IoU exceeds iou_threshold, else 1; "gaussian", exp(-IoU^2 / sigma).
    A box whose score is, or falls, below min_score is out. Then the best of the rest is kept, and
    so on.

    boxes: [N, 4], [x1, y1, x2, y2] in pixels; scores: [N]; idxs: groups as in `batched_nms`, or
    None. Returns keep, int64 [k], by falling new score, ties by the lower row; and the new scores
    [k], float32 (float64 where boxes or scores are). NaN boxes and scores as in `nms`. No gradient.
    Raises TypeError or ValueError on other shapes, dtypes, devices, a threshold outside [0, 1], a
    sigma that is not positive, a negative min_score and an unknown method.

    Equivalent to `focaldet.reference.soft_nms`.
    """
    _boxes_and_scores("soft_nms", boxes, scores, ("N", 4))
    _groups("soft_nms", boxes, idxs=idxs)
    _check.number(iou_threshold, "iou_threshold", 0, 1)
    _check.number(min_score, "min_score", 0)
    if _check.number(sigma, "sigma", 0) == 0:
        raise ValueError("sigma: expected a number above 0, got 0")
    _check.choice(method, "method", SOFT_NMS)
    return _ops.soft_nms(
        boxes.detach(),
        scores.detach(),
        idxs,
        float(iou_threshold),
        float(sigma),
        float(min_score),
        method,
    )


def _groups(op: str, boxes: Tensor, **groups: Tensor | None) -> None:
    for name, group in groups.items():
        if group is not None:
            _check.tensor(group, name, tuple(boxes.shape[:-1]), _check.INTEGER)
    _check.same_device(op, boxes=boxes, **groups)


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
    labels: Tensor | None,
    iou_threshold: float,
    score_threshold: float,
    max_detections: int,
) -> tuple[Tensor, Tensor]:
    idx = boxes.new_empty((boxes.shape[0], max_detections), dtype=torch.int64)
    return idx, boxes.new_empty((boxes.shape[0],), dtype=torch.int64)


@torch.library.register_fake("focaldet::nms_match")
def _(
    boxes: Tensor, scores: Tensor, idxs: Tensor | None, iou_threshold: float
) -> tuple[Tensor, Tensor]:
    return _unknown_length(boxes), boxes.new_empty((boxes.shape[0],), dtype=torch.int64)


@torch.library.register_fake("focaldet::soft_nms")
def _(
    boxes: Tensor,
    scores: Tensor,
    idxs: Tensor | None,
    iou_threshold: float,
    sigma: float,
    min_score: float,
    method: str,
) -> tuple[Tensor, Tensor]:
    keep = _unknown_length(boxes)
    wide = torch.float64 in (boxes.dtype, scores.dtype)
    return keep, boxes.new_empty(keep.shape, dtype=torch.float64 if wide else torch.float32)
