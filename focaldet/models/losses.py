"""The losses that the paper compares (Table 1), from a head's raw maps.

Focal loss, cross entropy and balanced cross entropy are settings of one operator. OHEM is the
baseline that mines examples instead of weighting them.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from ..ops import (
    Anchors,
    generate_anchors,
    match_anchors,
    nms_padded,
    retinanet_loss,
    sigmoid_focal_loss,
)
from ..ops._overwrite import refusal
from ..ops.choices import LowQuality, Mode, Normalizer

Loss = Callable[..., tuple[Tensor, Tensor, Tensor]]  # classification, box regression, n_foreground

LossName = Literal["focal", "cross_entropy", "balanced_cross_entropy", "ohem", "ohem_1to3"]
LOSSES: tuple[LossName, ...] = get_args(LossName)


def make_loss(
    name: LossName,
    *,
    alpha: float,
    gamma: float,
    ohem_batch: int,
    ohem_nms_thresh: float,
    **shared: Any,
) -> Loss:
    """The loss called `name`, one of LOSSES, called as `ohem_loss` is, without its keywords.

    `shared` holds what all of them take: fg_iou, bg_iou, low_quality, box_loss, beta, normalizer.
    """
    mined = partial(ohem_loss, keep=ohem_batch, nms_iou=ohem_nms_thresh, **shared)
    return {
        "focal": partial(consuming_loss, alpha=alpha, gamma=gamma, **shared),
        "cross_entropy": partial(consuming_loss, alpha=-1.0, gamma=0.0, **shared),
        "balanced_cross_entropy": partial(consuming_loss, alpha=alpha, gamma=0.0, **shared),
        "ohem": mined,
        "ohem_1to3": partial(mined, one_to_three=True),
    }[name]


def consuming_loss(
    cls_logits: list[Tensor], box_deltas: list[Tensor], *truth: Any, **settings: Any
) -> tuple[Tensor, Tensor, Tensor]:
    """`retinanet_loss` for maps that nobody needs afterwards.

    On the CPU the gradients take their place, where they may: no memory beside the maps. On CUDA
    the incoming gradient is not known to be 1, and recomputing costs less than scaling.
    """
    maps = [*cls_logits, *box_deltas]
    free = maps[0].device.type == "cpu" and refusal(maps) is None
    mode: Mode | None = "overwrite" if free else None
    return retinanet_loss(cls_logits, box_deltas, *truth, mode=mode, **settings)


def ohem_loss(
    cls_logits: list[Tensor],  # L x [B, A*K, H, W]
    box_deltas: list[Tensor],  # L x [B, A*4, H, W]
    anchors: Anchors,
    gt_boxes: Tensor,  # [T, 4]
    gt_labels: Tensor,  # [T]
    gt_splits: Tensor,  # [B + 1]
    *,
    keep: int = 512,
    nms_iou: float = 0.7,
    one_to_three: bool = False,
    fg_iou: float = 0.5,
    bg_iou: float = 0.4,
    low_quality: LowQuality = "torchvision",
    normalizer: Normalizer | Tensor = "batch",
    **box: Any,
) -> tuple[Tensor, Tensor, Tensor]:
    """Online hard example mining (Shrivastava et al. 2016) as in section 5.1 and Table 1d.

    Every anchor is scored by its cross entropy; NMS by that score, over the anchors' own boxes,
    thins out neighbours; of what is left in an image the `keep` anchors of highest loss make the
    classification loss. `one_to_three` keeps at most keep/4 foreground anchors, and three
    background anchors for each (SSD's rule). The box loss, `box`, and the normalizer are those of
    `retinanet_loss`. Mining needs the loss of every anchor as a tensor: this is a baseline to
    compare with, and costs the memory that `retinanet_loss` saves.
    """
    _, box_regression, n_foreground = retinanet_loss(
        [level.detach() for level in cls_logits],
        box_deltas,
        anchors,
        gt_boxes,
        gt_labels,
        gt_splits,
        fg_iou=fg_iou,
        bg_iou=bg_iou,
        low_quality=low_quality,
        normalizer=normalizer,
        **box,
    )
    match = match_anchors(anchors, gt_boxes, gt_splits, fg_iou, bg_iou, low_quality)  # [B, N]
    foreground = match >= 0
    rows = gt_splits[:-1, None] + match.clamp(min=0)
    # One label more than there are, so that images without boxes have a row to point at.
    labels = torch.where(foreground, F.pad(gt_labels, (0, 1))[rows], match)

    num_anchors = box_deltas[0].shape[1] // 4
    logits = torch.cat(
        [
            torch.unflatten(level, 1, (num_anchors, -1)).permute(0, 3, 4, 1, 2).flatten(1, 3)
            for level in cls_logits
        ],
        dim=1,
    )  # [B, N, K]
    # Under autocast, too, what is summed and returned is not of a half type.
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    loss = sigmoid_focal_loss(logits, labels, alpha=-1.0, gamma=0.0).sum(-1)

    boxes = generate_anchors(anchors, loss.device).expand(len(loss), -1, -1)
    # Ignored anchors have loss 0, which is not above the score threshold.
    picked, _ = nms_padded(
        boxes,
        loss.detach().float(),
        torch.zeros_like(labels),
        nms_iou,
        score_threshold=0.0,
        max_detections=loss.shape[1] if one_to_three else keep,
    )  # [B, M], by falling loss, -1 where there are fewer
    kept = picked >= 0
    picked = picked.clamp(min=0)
    if one_to_three:
        positive = kept & foreground.gather(1, picked)
        negative = kept & ~positive
        positive &= positive.cumsum(1) <= keep // 4
        negative &= negative.cumsum(1) <= 3 * positive.sum(1, keepdim=True)
        kept = positive | negative
    total = (loss.gather(1, picked) * kept).sum(1)  # [B]

    per_image = foreground.sum(1)
    if isinstance(normalizer, Tensor):
        classification = total.sum() / normalizer
    elif normalizer == "image":
        classification = (total / per_image.clamp(min=1)).sum() / max(1, len(total))
    else:
        classification = total.sum() / per_image.sum().clamp(min=1)
    return classification, box_regression, n_foreground
