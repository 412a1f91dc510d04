"""sigmoid_focal_loss, summed over all anchors: from labels, as training has them, and dense."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

import focaldet.ops
import focaldet.reference

from .. import peers
from ..case import BACKWARD, BOTH, WAYS, Case, Run, Work
from ..compiled import compiled_loss, focal_from_labels, focal_from_targets
from ..inputs import COCO_640, COCO_800, LVIS, Setup, Workload
from ..peers import of_one, one_hot


class Inputs(NamedTuple):
    logits: Tensor  # [n, K], requires a gradient
    targets: Tensor  # int64 [n], 1 % of them foreground; or the same as [n, K], one-hot


def inputs(setup: Setup, batch: int, dense: bool, classes: int = COCO_800.classes) -> Inputs:
    random, n = setup.random(0), batch * len(setup.anchors)
    logits = (torch.randn(n, classes, generator=random) - 4).to(setup.device, setup.dtype)
    targets = torch.randint(classes, (n,), generator=random)
    targets[torch.rand(n, generator=random) > 0.01] = -1
    targets = targets.to(setup.device)
    return Inputs(logits.requires_grad_(), one_hot(targets, logits) if dense else targets)


def cases(setup: Setup) -> Iterator[Case]:
    for workload in (COCO_800, COCO_640, LVIS):
        yield case(setup, workload, dense=False)
    yield case(setup, COCO_640, dense=True)


def case(setup: Setup, workload: Workload, dense: bool) -> Case:
    sized = workload.of(setup)
    providers = {
        "focaldet": focaldet_provider,
        "reference": reference_provider,
        "torchvision": torchvision_provider,
        "torch.compile": compiled_loss(focal_from_targets if dense else focal_from_labels),
    }
    if not dense:
        providers |= peers.focal_loss(sized, workload.classes)
    large = workload is not COCO_640 and not setup.quick
    return Case(
        f"sigmoid_focal_loss from {'dense targets' if dense else 'labels'}, {workload.name}",
        partial(inputs, sized, 1, dense, workload.classes),
        providers,
        sizes={"B": 1, "N": len(sized.anchors), "K": workload.classes},
        ways=WAYS,
        work=work,
        skip={"reference": f"takes gigabytes; see {COCO_640.name}"} if large else {},
    )


def work(x: Inputs, way: str) -> Work | None:
    """Forward need not write more than a number, and both ways must write the gradient."""
    if way == BACKWARD:
        return None
    return Work(x.logits.nbytes + x.targets.nbytes, x.logits.nbytes if way == BOTH else 0)


def focaldet_provider(x: Inputs) -> Run:
    return both_ways(focaldet.ops.sigmoid_focal_loss, x)


def reference_provider(x: Inputs) -> Run:
    return both_ways(focaldet.reference.sigmoid_focal_loss, x)


def torchvision_provider(x: Inputs) -> Run:
    """It takes dense targets only, so making them of labels is part of the work."""
    from torchvision.ops import sigmoid_focal_loss

    def loss(logits: Tensor, targets: Tensor, reduction: str) -> Tensor:
        if not targets.is_floating_point():
            foreground = (targets >= 0).nonzero()[:, 0]
            dense = torch.zeros_like(logits)
            dense[foreground, targets[foreground]] = 1
            targets = dense
        return sigmoid_focal_loss(logits, targets, reduction=reduction)

    return both_ways(loss, x)


def both_ways(loss: Callable[..., Tensor], x: Inputs) -> Run:
    return of_one(lambda: loss(x.logits, x.targets, reduction="sum"), x.logits)
