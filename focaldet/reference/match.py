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

    An anchor takes its best box (ties: the lowest row). IoU >= fg_iou is foreground, < bg_iou is
    background. A box's best anchors (IoU equal to the best of that box, and above 0) are foreground
    below the threshold too: under "torchvision" each keeps its own best box (Matcher with
    allow_low_quality_matches), under "mmdet" it goes to that box, the last such box winning
    (MaxIoUAssigner with gt_max_assign_all), under "none" there is no such rule (the paper).
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
