"""retinanet_loss: from the head's raw maps to both losses, and back to the maps' gradients."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from types import SimpleNamespace
from typing import NamedTuple

from torch import Tensor

import focaldet.ops
import focaldet.reference
from focaldet import Anchors

from ..case import BACKWARD, BOTH, WAYS, Case, Differentiable, Run, Work
from ..inputs import COCO_640, COCO_800, Setup, Truth, Workload, ground_truth, head_maps

CLASSES = COCO_800.classes
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
    for workload in (COCO_800, COCO_640):
        yield case(setup, workload)


def case(setup: Setup, workload: Workload, batch: int = 1) -> Case:
    sized = workload.of(setup)
    large = workload is not COCO_640 and not setup.quick
    return Case(
        f"retinanet_loss, {workload.name}",
        partial(inputs, sized, batch),
        {
            "focaldet": focaldet_provider,
            "reference": reference_provider,
            "torchvision": torchvision_provider,
        },
        sizes={"B": batch, "N": len(sized.anchors), "K": CLASSES},
        ways=WAYS,
        work=work,
        skip={"reference": f"takes gigabytes; see {COCO_640.name}"} if large else {},
    )


def work(x: Inputs, way: str) -> Work | None:
    """Forward need not write more than two numbers, and both ways must write the gradient."""
    maps = sum(level.nbytes for level in x.cls_logits + x.box_deltas)
    return None if way == BACKWARD else Work(maps, maps if way == BOTH else 0)


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
    return Differentiable(loss, [*x.cls_logits, *x.box_deltas])
