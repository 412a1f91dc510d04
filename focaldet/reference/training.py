"""RetinaNet's losses from the raw maps of its head."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ._common import BACKGROUND, BETWEEN, IGNORED, wide
from .anchors import flatten_maps, generate_anchors
from .box_loss import box_losses
from .focal_loss import sigmoid_focal_loss
from .match import match_anchors


def retinanet_loss(
    cls_logits: list[Tensor],  # [B, A * K, H, W] by level
    box_deltas: list[Tensor],  # [B, A * 4, H, W] by level
    anchors: Any,
    gt_boxes: Tensor,  # [T, 4]
    gt_labels: Tensor,  # int64 [T]
    gt_splits: Tensor,  # int64 [B + 1]
    *,
    alpha: float | Tensor = 0.25,
    gamma: float = 2.0,
    fg_iou: float = 0.5,
    bg_iou: float = 0.4,
    low_quality: str = "torchvision",
    box_loss: str = "smooth_l1",
    beta: float = 0.1,
    normalizer: str | Tensor = "batch",
    focal_loss: Callable[..., Tensor] = sigmoid_focal_loss,
) -> tuple[Tensor, Tensor, Tensor]:  # classification, box_regression, n_foreground
    """Focal loss over all anchors and box loss over the foreground, both divided by the number of
    foreground anchors: of the batch ("batch"), of each image, then averaged ("image"), or given.

    A gt label outside [0, K) is no class: its anchors are ignored by the classification, and
    foreground for the box loss (`box_losses`) and the count. `focal_loss`: another implementation.
    """
    per_position = len(anchors.cell_anchors[0])
    logits = flatten_maps(cls_logits, per_position)
    deltas = flatten_maps(box_deltas, per_position)
    table = generate_anchors(anchors, deltas.device)
    matches = match_anchors(table, gt_boxes, gt_splits, fg_iou, bg_iou, low_quality).long()
    labels = torch.where(matches == BETWEEN, IGNORED, BACKGROUND)
    foreground = matches >= 0
    row = (matches + gt_splits[:-1, None])[foreground]
    label = gt_labels[row]
    known = (label >= 0) & (label < logits.shape[-1])
    labels[foreground] = torch.where(known, label, IGNORED)
    classification = focal_loss(logits, labels, alpha, gamma)
    located = table.expand(len(matches), -1, 4)[foreground]
    regression = torch.zeros_like(deltas[..., 0], dtype=wide(deltas).dtype)
    regression[foreground] = box_losses(
        deltas[foreground], located, gt_boxes[row], box_loss, beta
    ).to(regression.dtype)
    per_image = foreground.sum(dim=1)
    if isinstance(normalizer, str) and normalizer == "image":
        scale = per_image.clamp(min=1) * max(1, len(per_image))
    elif isinstance(normalizer, str):
        scale = per_image.sum().clamp(min=1)
    else:
        scale = normalizer
    classification = (wide(classification).sum(dim=(1, 2)) / scale).sum()
    return classification, (regression.sum(dim=1) / scale).sum(), per_image.sum()
