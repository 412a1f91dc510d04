"""Anchors to ground truth, without an IoU matrix."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .. import torch_ops as _ops
from . import _check
from .anchors import Anchors, anchor_count
from .choices import LOW_QUALITY, LowQuality

# The arguments of the schemas: anchors, the grid's four, gt_boxes, gt_splits and the rules.
_Arguments = tuple[
    Tensor | None, list[float], list[int], list[int], float,
    Tensor, Tensor, float, float, str,
]  # fmt: skip


def match_anchors(
    anchors: Anchors | Tensor,
    gt_boxes: Tensor,  # [T, 4]
    gt_splits: Tensor,  # int64 [B + 1]
    fg_iou: float = 0.5,
    bg_iou: float = 0.4,
    low_quality: LowQuality = "torchvision",
) -> Tensor:
    """The ground-truth box of each anchor, for all images and levels.

    Args:
        anchors: an `Anchors`, or a tensor [n, 4], [x1, y1, x2, y2] in pixels.
        gt_boxes: all boxes of the batch, [T, 4]; compared in float32.
        gt_splits: image i owns rows gt_splits[i] to gt_splits[i + 1]; rows past the last are
            padding.
        fg_iou, bg_iou: IoU from which an anchor is foreground, below which it is background.
        low_quality: what a box's best anchors do below fg_iou. "torchvision": each is foreground
            for its own best box; "mmdet": it goes to that box, the last one winning; "none" (the
            paper).

    Returns:
        int32 [B, n]: the row of the box within its image, -1 background, -2 between the thresholds.
        Ties go to the lowest row. A box that overlaps no anchor claims none, in every mode
        (torchvision would make every anchor foreground). Beside the result it takes memory of the
        size of the boxes: no IoU matrix. Two launches on CUDA.

    Raises:
        TypeError, ValueError: saying what was expected and what came.

    Equivalent to:

    ```python
    best, match = box_iou(gt_boxes, anchors).max(dim=0)   # by image
    match[best < fg_iou], match[best < bg_iou] = -2, -1   # then the low-quality rule
    ```
    """
    return _ops.match_anchors(
        *_arguments("match_anchors", anchors, gt_boxes, gt_splits, fg_iou, bg_iou, low_quality)
    )


def count_foreground(
    anchors: Anchors | Tensor,
    gt_boxes: Tensor,
    gt_splits: Tensor,
    fg_iou: float = 0.5,
    bg_iou: float = 0.4,
    low_quality: LowQuality = "torchvision",
) -> Tensor:
    """The number of foreground anchors of each image, int64 [B]; arguments as `match_anchors`.

    For averaging the loss's normalizer over ranks before the loss is computed.
    Equivalent to ``(match_anchors(...) >= 0).sum(dim=1)``.
    """
    return _ops.count_foreground(
        *_arguments("count_foreground", anchors, gt_boxes, gt_splits, fg_iou, bg_iou, low_quality)
    )


def _arguments(
    op: str,
    anchors: Anchors | Tensor,
    gt_boxes: Tensor,
    gt_splits: Tensor,
    fg_iou: float,
    bg_iou: float,
    low_quality: LowQuality,
) -> _Arguments:
    _check.tensor(gt_boxes, "gt_boxes", ("T", 4))
    _check.splits(gt_splits, gt_boxes.shape[0])
    _check.finite_boxes(_check.used(gt_boxes, gt_splits), "gt_boxes")
    rules(fg_iou, bg_iou, low_quality)
    rest = gt_boxes, gt_splits, float(fg_iou), float(bg_iou), low_quality
    if isinstance(anchors, Tensor):
        _check.tensor(anchors, "anchors", ("n", 4))
        _check.same_device(op, gt_boxes=gt_boxes, gt_splits=gt_splits, anchors=anchors)
        return anchors, [], [], [], 0.0, *rest
    _check.anchors(anchors)
    _check.same_device(op, gt_boxes=gt_boxes, gt_splits=gt_splits)
    return None, *anchors.schema_arguments(), *rest


def rules(fg_iou: float, bg_iou: float, low_quality: LowQuality) -> None:
    """Checks the matching rules."""
    _check.number(fg_iou, "fg_iou", 0, 1)
    _check.number(bg_iou, "bg_iou", 0, 1)
    if bg_iou > fg_iou:
        raise ValueError(f"bg_iou: expected at most fg_iou ({fg_iou}), got {bg_iou}")
    _check.choice(low_quality, "low_quality", LOW_QUALITY)


@torch.library.register_fake("focaldet::match_anchors")
def _(
    anchors: Tensor | None,
    cell_anchors: Sequence[float],
    feature_sizes: Sequence[int],
    strides: Sequence[int],
    offset: float,
    gt_boxes: Tensor,
    gt_splits: Tensor,
    *_: Any,
) -> Tensor:
    n = anchor_count(cell_anchors, feature_sizes) if anchors is None else anchors.shape[0]
    return gt_boxes.new_empty((gt_splits.shape[0] - 1, n), dtype=torch.int32)


@torch.library.register_fake("focaldet::count_foreground")
def _(
    anchors: Tensor | None,
    cell_anchors: Sequence[float],
    feature_sizes: Sequence[int],
    strides: Sequence[int],
    offset: float,
    gt_boxes: Tensor,
    gt_splits: Tensor,
    *_: Any,
) -> Tensor:
    return gt_boxes.new_empty((gt_splits.shape[0] - 1,), dtype=torch.int64)
