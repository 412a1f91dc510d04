"""sigmoid_focal_loss, summed over all anchors: from labels, as training has them, and dense."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

import focaldet.ops
import focaldet.reference

from .common import Case, Run, Setup

CLASSES = 80


class Inputs(NamedTuple):
    logits: Tensor  # [n, K], requires a gradient
    targets: Tensor  # int64 [n], 1 % of them foreground; or the same as [n, K], one-hot


def inputs(setup: Setup, batch: int, dense: bool) -> Inputs:
    random, n = setup.random(0), batch * len(setup.anchors)
    logits = (torch.randn(n, CLASSES, generator=random) - 4).to(setup.device, setup.dtype)
    targets = torch.randint(CLASSES, (n,), generator=random)
    targets[torch.rand(n, generator=random) > 0.01] = -1
    targets = targets.to(setup.device)
    return Inputs(logits.requires_grad_(), one_hot(targets, logits) if dense else targets)


def one_hot(labels: Tensor, like: Tensor) -> Tensor:
    return F.one_hot(labels + 1, like.shape[1] + 1)[:, 1:].to(like.dtype)


def cases(setup: Setup) -> Iterator[Case]:
    for kind, dense in {"labels": False, "dense targets": True}.items():
        for batch in (1, 2):
            x = inputs(setup, batch, dense)
            n, classes = x.logits.shape
            yield Case(
                f"sigmoid_focal_loss, forward and backward, {kind}, B={batch}, {n:,} x {classes}",
                x,
                {
                    "focaldet": focaldet_provider,
                    "reference": reference_provider,
                    "torchvision": torchvision_provider,
                },
                moved=2 * x.logits.nbytes + x.targets.nbytes,  # the gradient is the second
                skip={"reference": "takes gigabytes; see B=1"} if batch > 1 else {},
            )


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
    def run() -> tuple[Tensor, Tensor]:
        total = loss(x.logits, x.targets, reduction="sum")
        return total, torch.autograd.grad(total, x.logits)[0]

    return run
