"""What a detector does on one image, anchor by anchor; and where its classification loss lies."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from .models import RetinaNet
from .models.transform import GroundTruth
from .ops import Anchors, decode_boxes, generate_anchors, match_anchors, sigmoid_focal_loss
from .reference.anchors import flatten_maps


@dataclass(frozen=True, eq=False)
class Anatomy:
    """The N anchors of an image in the operators' order: levels, then y, x and the cell anchor.

    Boxes are [x1, y1, x2, y2] in pixels of the image, and are not clipped to it. All float32, on
    the model's device.
    """

    grid: Anchors  # in pixels of the batch, which is the image resized as the model takes it
    scale: Tensor  # [4]: what takes a box from the image to the batch
    size: tuple[int, int]  # (height, width) of the image in the batch, before padding
    anchors: Tensor  # [N, 4]
    level: Tensor  # int64 [N]: from 0
    logits: Tensor  # [N, K]
    boxes: Tensor  # [N, 4]: decoded
    match: Tensor  # int64 [N]: a row of the target, -1 background, -2 ignored
    labels: Tensor  # int64 [N]: a class, -1 background, -2 ignored
    alpha: float  # of the model's loss, as `sigmoid_focal_loss` takes it
    gamma: float

    def times(self, ratio: Tensor) -> Anatomy:
        """On the CPU, with the boxes in pixels of the image enlarged by ratio, [4]."""
        return replace(
            self,
            scale=self.scale.cpu() / ratio,
            anchors=self.anchors.cpu() * ratio,
            level=self.level.cpu(),
            logits=self.logits.cpu(),
            boxes=self.boxes.cpu() * ratio,
            match=self.match.cpu(),
            labels=self.labels.cpu(),
        )


@torch.no_grad()
def anatomy(
    model: RetinaNet,
    image: Tensor,  # [3, H, W]
    target: GroundTruth | dict[str, Tensor] | None = None,
    resize: bool = True,
) -> Anatomy:
    """Runs a model, in eval mode, on an image and matches its anchors as its loss does.

    `image`, `target` and `resize` are as the model takes them, see `RetinaNet`. Without a target
    all anchors are ignored: nothing is known of them. Raises `ValueError` as the model does.
    """
    batch, sizes, scales = model.transform.images([image], resize=resize)
    cls_logits, box_deltas = model.features(batch)
    grid = model.anchors(cls_logits, batch)
    anchors = generate_anchors(grid, batch.device)
    logits, deltas = (
        flatten_maps(maps, grid.per_position)[0].float() for maps in (cls_logits, box_deltas)
    )
    settings = loss_settings(model)
    if target is None:
        match = labels = torch.full((len(anchors),), -2, device=batch.device)
    else:
        gt_boxes, gt_labels, splits = model.transform.targets([target], scales, model.num_classes)
        rules = {name: settings[name] for name in ("fg_iou", "bg_iou", "low_quality")}
        match = match_anchors(grid, gt_boxes, splits, **rules)[0].long()
        # One label more than there are, for an image without objects.
        of_match = torch.nn.functional.pad(gt_labels, (0, 1))[match.clamp(min=0)]
        labels = torch.where(match >= 0, of_match, match)
    counts = torch.tensor([len(level) for level in grid.levels()], device=batch.device)
    height, width = sizes[0].tolist()
    return Anatomy(
        grid=grid,
        scale=scales[0],
        size=(height, width),
        anchors=anchors / scales[0],
        level=torch.arange(len(counts), device=batch.device).repeat_interleave(counts),
        logits=logits,
        boxes=decode_boxes(deltas, anchors) / scales[0],
        match=match,
        labels=labels,
        alpha=settings.get("alpha", -1.0),  # OHEM ranks anchors by plain cross entropy
        gamma=settings.get("gamma", 0.0),
    )


def loss_settings(model: RetinaNet) -> dict[str, Any]:
    """The keywords of the model's loss: its thresholds, and alpha and gamma where it has them."""
    if not isinstance(model.criterion, partial):
        raise ValueError("criterion: expected a loss made by make_loss, which tells its settings")
    return model.criterion.keywords


def class_losses(
    anatomy: Anatomy, alpha: float | None = None, gamma: float | None = None
) -> Tensor:
    """The classification loss of each anchor, [N]: the sum over its classes, 0 where ignored.

    With the model's own alpha and gamma unless given. The model's loss is their sum over its
    normaliser, the number of foreground anchors (unless OHEM leaves anchors out).
    """
    return sigmoid_focal_loss(
        anatomy.logits,
        anatomy.labels,
        anatomy.alpha if alpha is None else alpha,
        anatomy.gamma if gamma is None else gamma,
    ).sum(dim=1)


def cumulative_share(losses: Tensor, points: int = 101) -> Tensor:
    """The share of the total that the lowest losses make up: Figure 4 of Lin et al. 2017.

    losses: [M], at least 0. Returns float64 [points]: at each of the fractions 0 to 1, evenly
    spaced, what that fraction of the losses, the lowest, sum to, divided by the sum of all; linear
    between two of them. Zeros where there is nothing to share: no losses, or all of them 0.
    Summed in float64.
    """
    if points < 2:
        raise ValueError(f"points: expected at least 2, got {points}")
    total = torch.zeros(len(losses) + 1, dtype=torch.float64, device=losses.device)
    torch.cumsum(losses.double().sort().values, 0, out=total[1:])
    if total[-1] == 0:
        return total.new_zeros(points)
    place = torch.linspace(0, len(losses), points, dtype=torch.float64, device=losses.device)
    below = place.long().clamp(max=len(losses) - 1)
    return torch.lerp(total[below], total[below + 1], place - below) / total[-1]
