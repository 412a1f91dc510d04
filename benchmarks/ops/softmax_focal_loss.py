"""softmax_focal_loss, summed over all anchors: background is a class of its own, the last."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch

import focaldet.ops
import focaldet.reference

from .. import peers
from ..case import WAYS, Case
from ..compiled import compiled_loss, softmax_focal
from ..inputs import COCO_640, LVIS, Setup
from .focal_loss import Inputs, both_ways, work


def inputs(setup: Setup, classes: int) -> Inputs:
    random, n = setup.random(0), len(setup.anchors)
    logits = torch.randn(n, classes, generator=random)
    logits[:, -1] += 4
    labels = torch.randint(classes, (n,), generator=random)
    labels[torch.rand(n, generator=random) > 0.01] = classes - 1
    logits = logits.to(setup.device, setup.dtype)
    return Inputs(logits.requires_grad_(), labels.to(setup.device))


def cases(setup: Setup) -> Iterator[Case]:
    for workload in (COCO_640, LVIS):
        sized, classes = workload.of(setup), workload.classes + 1
        yield Case(
            f"softmax_focal_loss, {workload.name}",
            partial(inputs, sized, classes),
            {
                "focaldet": partial(both_ways, focaldet.ops.softmax_focal_loss),
                "reference": partial(both_ways, focaldet.reference.softmax_focal_loss),
                "torch.compile": compiled_loss(softmax_focal),
                **peers.softmax_focal_loss(sized),
            },
            sizes={"B": 1, "N": len(sized.anchors), "K": classes},
            ways=WAYS,
            work=work,
            skip={}
            if workload is COCO_640 or setup.quick
            else {"reference": f"takes gigabytes; see {COCO_640.name}"},
        )
