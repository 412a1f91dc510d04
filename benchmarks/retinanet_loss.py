"""retinanet_loss: from the head's raw maps to both losses, and back to the maps' gradients."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from types import SimpleNamespace
from typing import NamedTuple

import torch
from torch import Tensor

import focaldet.ops
import focaldet.reference
from focaldet import Anchors

from .common import Case, Run, Setup, Truth, ground_truth, head_maps

CLASSES = 80
# What torchvision computes, so that results can be compared.
SETTINGS = {"normalizer": "image", "box_loss": "l1"}


class Inputs(NamedTuple):
    cls_logits: list[Tensor]  # [B, A * K, H, W] by level
    box_deltas: list[Tensor]  # [B, A * 4, H, W] by level
    grid: Anchors
    truth: Truth


def inputs(setup: Setup, batch: int) -> Inputs:
    maps = head_maps(setup, batch, CLASSES)
    for level in [*maps[0], *maps[1]]:
        level.requires_grad_()
    return Inputs(*maps, setup.anchors, ground_truth(setup, batch, CLASSES))


def cases(setup: Setup) -> Iterator[Case]:
    for batch in (1, 2):
        x = inputs(setup, batch)
        yield Case(
            f"retinanet_loss, forward and backward, B={batch}, {len(x.grid):,} x {CLASSES}",
            x,
            {
                "focaldet": focaldet_provider,
                "reference": reference_provider,
                "torchvision": torchvision_provider,
            },
            moved=2 * sum(level.nbytes for level in x.cls_logits + x.box_deltas),
            skip={"reference": "takes gigabytes; see B=1"} if batch > 1 else {},
        )


def focaldet_provider(x: Inputs) -> Run:
    loss = partial(focaldet.ops.retinanet_loss, **SETTINGS)
    return both_ways(lambda: loss(x.cls_logits, x.box_deltas, x.grid, *x.truth)[:2], x)


def reference_provider(x: Inputs) -> Run:
    loss = partial(focaldet.reference.retinanet_loss, **SETTINGS)
    return both_ways(lambda: loss(x.cls_logits, x.box_deltas, x.grid, *x.truth)[:2], x)


def torchvision_provider(x: Inputs) -> Run:
    """Its head's rearrangement of the maps, its matching and its losses; the anchors are given."""
    from torchvision.models.detection._utils import Matcher
    from torchvision.models.detection.retinanet import RetinaNet, RetinaNetHead

    per_position = x.grid.per_position
    parts = SimpleNamespace(
        proposal_matcher=Matcher(0.5, 0.4, allow_low_quality_matches=True),
        head=RetinaNetHead(8, per_position, CLASSES),
    )
    targets = x.truth.by_image()
    table = focaldet.ops.generate_anchors(x.grid, x.truth.boxes.device)

    def loss() -> tuple[Tensor, Tensor]:
        outputs = {
            "cls_logits": focaldet.reference.flatten_maps(x.cls_logits, per_position),
            "bbox_regression": focaldet.reference.flatten_maps(x.box_deltas, per_position),
        }
        found = RetinaNet.compute_loss(parts, targets, outputs, [table] * len(targets))
        return found["classification"], found["bbox_regression"]

    return both_ways(loss, x)


def both_ways(loss: Callable[[], tuple[Tensor, Tensor]], x: Inputs) -> Run:
    def run() -> tuple[Tensor, ...]:
        losses = loss()
        return *losses, *torch.autograd.grad(sum(losses), [*x.cls_logits, *x.box_deltas])

    return run
