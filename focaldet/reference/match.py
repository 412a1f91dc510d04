"""Which ground-truth box each anchor answers for."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ._common import BACKGROUND, BETWEEN
from .anchors import generate_anchors
from .boxes import box_iou


def match_anchors(
    anchors: Any,
    gt_boxes: Tensor,  # [T, 4]
    gt_splits: Tensor,  # int64 [B + 1]
    fg_iou: float = 0.5,
    bg_iou: float = 0.4,
    low_quality: str = "torchvision",
) -> Tensor:  # int32 [B, n_anchors]
    """The row of each anchor's box within its image, -1 background, -2 between the thresholds.

    IoUs are float32, thresholds are rounded to it. An anchor's best box is the one of the greatest
    IoU, the lowest row if several have it. From fg_iou on (inclusive) the anchor is foreground;
    below bg_iou (exclusive) it is background.

    Low quality: an anchor is claimed by each box whose best anchor it is: its IoU with the box
    equals the greatest that any anchor has with it, so that equals are claimed together. Then,
    whatever its IoU,

    - "torchvision" (Matcher with allow_low_quality_matches; detectron2 likewise): a claimed anchor
      is matched with its own best box, which need not be the one that claims it;
    - "mmdet" (MaxIoUAssigner with match_low_quality, gt_max_assign_all and min_pos_iou = 0): it is
      matched with the box that claims it, of several the one of the highest row, even if its own
      best box is another and of IoU >= fg_iou;
    - "none": nothing (the paper).

    Apart from both on purpose: a box that overlaps no anchor claims none. There 0 equals the best
    IoU, and every anchor that the box misses would be foreground. Union 0 (IoU NaN) counts as no
    overlap; mmdet divides by max(union, 1e-6). mmdet writes 0 for background, -1 for between the
    thresholds and i + 1 for box i.
    """
    table = _anchor_tensor(anchors, gt_boxes.device)
    rows = []
    for start, stop in zip(gt_splits[:-1].tolist(), gt_splits[1:].tolist(), strict=True):
        if start == stop or len(table) == 0:
            rows.append(torch.full((len(table),), BACKGROUND, device=table.device))
            continue
        iou = box_iou(gt_boxes[start:stop].float(), table).nan_to_num(nan=-1.0)  # [t, n]
        row = torch.arange(stop - start, device=table.device)[:, None]
        best = iou.amax(dim=0)
        match = torch.where(iou == best, row, stop - start).amin(dim=0)
        result = torch.where(best < fg_iou, BETWEEN, match)
        result = torch.where(best < bg_iou, BACKGROUND, result)
        top = iou.amax(dim=1, keepdim=True)
        claims = (iou == top) & (top > 0)
        if low_quality == "torchvision":
            result = torch.where(claims.any(dim=0), match, result)
        elif low_quality == "mmdet":
            result = torch.where(
                claims.any(dim=0), torch.where(claims, row, -1).amax(dim=0), result
            )
        rows.append(result)
    return torch.stack(rows).int() if rows else table.new_empty((0, len(table)), dtype=torch.int32)


def count_foreground(anchors: Any, gt_boxes: Tensor, gt_splits: Tensor, **rules: Any) -> Tensor:
    """int64 [B]: the number of foreground anchors of each image."""
    return (match_anchors(anchors, gt_boxes, gt_splits, **rules) >= 0).sum(dim=1)


def _anchor_tensor(anchors: Any, device: torch.device) -> Tensor:
    return anchors.float() if isinstance(anchors, Tensor) else generate_anchors(anchors, device)
