"""torchvision's matchers without the matrix of IoUs that they are given."""

from __future__ import annotations

from typing import NamedTuple, NoReturn

import torch
from torch import Tensor
from torchvision.ops import box_iou

from ... import ops
from ...ops.choices import LowQuality
from ._operators import served


class Pairs(NamedTuple):
    """What stands for the IoU matrix of ground truth and anchors."""

    gt_boxes: Tensor  # [M, 4]
    anchors: Tensor  # [N, 4]

    def __getattr__(self, name: str) -> NoReturn:
        raise AttributeError(
            f"a matcher that is not accelerated asks for the IoU matrix (its {name}): where it was "
            "exchanged, `accelerate` the model again"
        )


def pairs(gt_boxes: Tensor, anchors: Tensor) -> Pairs | Tensor:
    """In place of box_iou, before a matcher; the matrix where ours would not give the same."""
    double = torch.float64 in (gt_boxes.dtype, anchors.dtype)  # ours compares in float32
    empty = gt_boxes.numel() == 0 or anchors.numel() == 0  # the matcher's own error
    if double or empty or not served(gt_boxes.device):
        matrix: Tensor = box_iou(gt_boxes, anchors)
        return matrix
    return Pairs(gt_boxes.detach(), anchors.detach())


def _match(
    anchors: Tensor, gt_boxes: Tensor, fg_iou: float, bg_iou: float, low_quality: LowQuality
) -> Tensor:
    """int64 [N]: of one image."""
    splits = torch.tensor([0, len(gt_boxes)]).to(gt_boxes.device)
    return ops.match_anchors(anchors, gt_boxes, splits, fg_iou, bg_iou, low_quality)[0].long()


class PairMatcher:
    """Matcher on `match_anchors`; of a matrix, torchvision's."""

    high_threshold: float
    low_threshold: float
    allow_low_quality_matches: bool

    def __call__(self, match_quality_matrix: Pairs | Tensor) -> Tensor:
        if isinstance(match_quality_matrix, Tensor):
            # Matcher's: `swap` puts this class before it.
            found: Tensor = super().__call__(match_quality_matrix)  # type: ignore[misc]
            return found
        return _match(
            match_quality_matrix.anchors,
            match_quality_matrix.gt_boxes,
            self.high_threshold,
            self.low_threshold,
            "torchvision" if self.allow_low_quality_matches else "none",
        )


class SSDPairMatcher(PairMatcher):
    """SSDMatcher on `match_anchors`: every box of the ground truth also has its best anchor."""

    def __call__(self, match_quality_matrix: Pairs | Tensor) -> Tensor:
        matches = super().__call__(match_quality_matrix)
        if isinstance(match_quality_matrix, Tensor):
            return matches
        gt_boxes, anchors = match_quality_matrix
        # The best anchor of a box: the same question with the roles exchanged, and no threshold.
        best = _match(gt_boxes, anchors, 0.0, 0.0, "none").clamp(min=0)
        matches[best] = torch.arange(len(gt_boxes), device=matches.device)
        return matches
