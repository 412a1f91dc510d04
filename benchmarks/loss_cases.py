"""`python -m benchmarks.loss_cases`: times what training's loss is made of, on the CPU, for the
bars of `python -m benchmarks.loss`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import focaldet.ops

from . import anchors, focal_loss, match, model, retinanet_loss
from . import cases as command
from .common import Case, Consuming, Run, Setup

Maps = tuple[list[Tensor], list[Tensor]]  # class logits and box deltas by level


def main(argv: Sequence[str] | None = None) -> int:
    return command.main("loss_cases", __doc__, cases, argv)


def cases(setup: Setup) -> Iterator[tuple[str, Case]]:
    """By the names that loss.py's targets have for them."""
    yield "focal", focal(setup)
    yield "match", match.case(setup, batch=1, boxes=20)
    yield "anchors", generated_anchors(setup)
    yield "retinanet", retinanet(setup)
    for classes in (3, 80):
        yield f"step, K={classes}", training_step(setup, classes)


# Focal loss -------------------------------------------------------------------------------------


def focal(setup: Setup) -> Case:
    x = focal_loss.inputs(setup, 1, dense=False)
    logits = x.logits.detach()
    n, classes = logits.shape
    return Case(
        f"sigmoid_focal_loss, forward and backward, labels, {n:,} x {classes}",
        x,
        {
            "focaldet": focal_loss.focaldet_provider,
            "torchvision": torchvision_from_dense,
            "torch.compile": compiled_provider,
        },
        moved=2 * logits.nbytes,
        beside={"new copy": lambda: torch.empty_like(logits).copy_(logits)},
    )


def torchvision_from_dense(x: focal_loss.Inputs) -> Run:
    """It is given the dense targets that it needs, ready-made."""
    dense = focal_loss.one_hot(x.targets, x.logits)
    return focal_loss.torchvision_provider(x._replace(targets=dense))


def loss_from_labels(logits: Tensor, labels: Tensor) -> Tensor:
    """Written for the compiler, which fuses each way into one pass and stores no dense targets.
    Ignored labels are left out, in its favour."""
    right = labels[:, None] == torch.arange(logits.shape[1])
    signed = torch.where(right, logits, -logits)
    weight = torch.where(right, 0.25, 0.75)
    return (weight * torch.sigmoid(-signed) ** 2 * -F.logsigmoid(signed)).sum()


def compiled_provider(x: focal_loss.Inputs) -> Run:
    compiled = torch.compile(loss_from_labels, fullgraph=True, dynamic=False)
    return focal_loss.both_ways(lambda logits, labels, reduction: compiled(logits, labels), x)


# Anchors ----------------------------------------------------------------------------------------


def generated_anchors(setup: Setup) -> Case:
    (case,) = anchors.cases(setup)
    table = torch.empty(len(setup.anchors), 4)
    return replace(case, beside={"fill": lambda: table.fill_(1.0)})


# RetinaNet's loss -------------------------------------------------------------------------------


def retinanet(setup: Setup) -> Case:
    x = retinanet_loss.inputs(setup, batch=2)
    return Case(
        f"retinanet_loss, forward and backward, B=2, {len(x.grid):,} x {retinanet_loss.CLASSES}",
        x,
        {
            "focaldet": retinanet_loss.focaldet_provider,
            "overwrite": overwriting_provider,
            "torchvision": retinanet_loss.torchvision_provider,
        },
        moved=2 * sum(level.nbytes for level in x.cls_logits + x.box_deltas),
    )


def overwriting_provider(x: retinanet_loss.Inputs) -> Run:
    loss = partial(focaldet.ops.retinanet_loss, mode="overwrite", **retinanet_loss.SETTINGS)
    return from_outputs(lambda *maps: loss(*maps, x.grid, *x.truth), (x.cls_logits, x.box_deltas))


def from_outputs(loss: Callable[..., Any], leaves: Maps) -> Consuming:
    """Both ways from maps as a convolution hands them over: fresh, and used by nobody else."""

    def use(maps: Maps) -> tuple[Tensor, ...]:
        losses = loss(*maps)[:2]
        return *losses, *torch.autograd.grad(sum(losses), [*maps[0], *maps[1]])

    return Consuming(partial(outputs, leaves), use)


def outputs(leaves: Maps) -> Maps:
    """Copies that are no leaves."""
    cls_logits, box_deltas = ([level * 1 for level in maps] for maps in leaves)
    return cls_logits, box_deltas


# The training step ------------------------------------------------------------------------------


def training_step(setup: Setup, classes: int) -> Case:
    """The loss alone, from maps of the model's own, beside the whole step."""
    size, batch = (setup, 1) if setup.quick else (replace(setup, image=model.SMALL), 8)
    x = model.inputs(size, batch, classes)
    step = model.training_step(x.model, x)
    return Case(
        f"loss in a training step, RetinaNet-R18, {model.title(size, batch, classes)}",
        x,
        {"focaldet": loss_of_step},
        beside={"step": step},
    )


def loss_of_step(x: model.Inputs) -> Run:
    net: nn.Module = x.model
    images, _, scales = net.transform.images(x.images)
    truth = net.transform.targets(x.targets, scales, net.num_classes)
    with torch.no_grad():
        leaves = net.features(images)
    for level in [*leaves[0], *leaves[1]]:
        level.requires_grad_()
    grid = net.anchors(leaves[0], images)
    return from_outputs(lambda *maps: net.criterion(*maps, grid, *truth), leaves)


if __name__ == "__main__":
    sys.exit(main())
