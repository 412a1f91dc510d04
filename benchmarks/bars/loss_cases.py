"""`python -m benchmarks.bars.loss_cases`: times what training's loss is made of, on the CPU,
for the bars of `python -m benchmarks.bars.loss`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

import focaldet.ops

from ..case import BOTH, Case, Consuming, Run, Work
from ..compiled import compiled_loss, focal_from_labels
from ..inputs import COCO_800, Setup
from ..ops import anchors, focal_loss, match, model, retinanet_loss
from . import command

Maps = tuple[list[Tensor], list[Tensor]]  # class logits and box deltas by level


def main(argv: Sequence[str] | None = None) -> int:
    return command.main("loss_cases", __doc__, cases, argv)


def cases(setup: Setup) -> Iterator[tuple[str, Case]]:
    """By the names that loss.py's targets have for them."""
    yield "focal", focal(setup)
    yield "match", matching(setup)
    yield "anchors", generated_anchors(setup)
    yield "retinanet", retinanet(setup)
    for classes in (3, 80):
        yield f"step, K={classes}", training_step(setup, classes)


# Focal loss -------------------------------------------------------------------------------------


def focal(setup: Setup) -> Case:
    """The copy beside it reads the logits and writes as much: labels are not counted."""
    return replace(
        focal_loss.case(setup, COCO_800, dense=False),
        providers={
            "focaldet": focal_loss.focaldet_provider,
            "torchvision": torchvision_from_dense,
            "torch.compile": compiled_loss(focal_from_labels),
        },
        ways=(BOTH,),
        work=lambda x, way: Work(x.logits.nbytes, x.logits.nbytes),
        beside={"new copy": new_copy},
    )


def new_copy(x: focal_loss.Inputs) -> Run:
    logits = x.logits.detach()
    return lambda: torch.empty_like(logits).copy_(logits)


def torchvision_from_dense(x: focal_loss.Inputs) -> Run:
    """It is given the dense targets that it needs, ready-made."""
    dense = focal_loss.one_hot(x.targets, x.logits)
    return focal_loss.torchvision_provider(x._replace(targets=dense))


# Matching ---------------------------------------------------------------------------------------


def matching(setup: Setup) -> Case:
    case = match.case(setup, COCO_800)
    names = ("focaldet", "reference", "torchvision")
    return replace(case, providers={name: case.providers[name] for name in names})


# Anchors ----------------------------------------------------------------------------------------


def generated_anchors(setup: Setup) -> Case:
    return replace(anchors.case(setup, COCO_800), beside={"fill": fill})


def fill(setup: Setup) -> Run:
    table = torch.empty(len(setup.anchors), 4)
    return lambda: table.fill_(1.0)


# RetinaNet's loss -------------------------------------------------------------------------------


def retinanet(setup: Setup) -> Case:
    return replace(
        retinanet_loss.case(setup, COCO_800, batch=2),
        providers={
            "focaldet": retinanet_loss.focaldet_provider,
            "overwrite": overwriting_provider,
            "torchvision": retinanet_loss.torchvision_provider,
        },
        ways=(BOTH,),
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
    return Case(
        f"loss in a training step, RetinaNet-R18, {model.title(size, batch, classes)}",
        partial(model.inputs, size, batch, classes),
        {"focaldet": loss_of_step},
        ways=(BOTH,),
        beside={"step": lambda x: model.training_step(x.model, x)},
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
