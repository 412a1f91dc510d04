"""match_anchors: which ground-truth box each anchor of a batch is trained on."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

import focaldet.ops
from focaldet import Anchors

from .. import peers
from ..case import Case, Run, Work, call
from ..compiled import compiled, match_one_image
from ..inputs import COCO_800, CROWD, Setup, Truth, Workload, ground_truth


class Inputs(NamedTuple):
    grid: Anchors
    table: Tensor  # the grid written out, for those who need it
    truth: Truth


def cases(setup: Setup) -> Iterator[Case]:
    yield case(setup, COCO_800)
    yield case(setup, COCO_800, batch=2)
    yield case(setup, CROWD)


def case(setup: Setup, workload: Workload, batch: int = 1) -> Case:
    sized = workload.of(setup)
    providers = {
        "focaldet": call(
            "focaldet.ops:match_anchors", lambda x: (x.grid, x.truth.boxes, x.truth.splits)
        ),
        "reference": call(
            "focaldet.reference:match_anchors",
            lambda x: (x.table, x.truth.boxes, x.truth.splits),
        ),
        "torchvision": torchvision_provider,
        **peers.matching(),
    }
    if batch == 1:
        providers["torch.compile"] = compiled(match_one_image, lambda x: (x.table, x.truth.boxes))
    return Case(
        f"match_anchors, {workload.name}{', 2 images' if batch == 2 else ''}",
        partial(inputs, sized, workload, batch),
        providers,
        sizes={"B": batch, "N": len(sized.anchors), "T": batch * workload.boxes},
        # The answer; anchors need not be read.
        work=lambda x, way: Work(
            x.truth.boxes.nbytes + x.truth.splits.nbytes, batch * len(x.table) * 4
        ),
    )


def inputs(setup: Setup, workload: Workload, batch: int) -> Inputs:
    table = focaldet.ops.generate_anchors(setup.anchors, setup.device)
    rows = workload.boxes, workload.smallest, workload.largest
    return Inputs(setup.anchors, table, ground_truth(setup, batch, workload.classes, *rows))


def torchvision_provider(x: Inputs) -> Run:
    from torchvision.models.detection._utils import Matcher
    from torchvision.ops import box_iou

    matcher = Matcher(0.5, 0.4, allow_low_quality_matches=True)
    images = x.truth.by_image()
    return lambda: torch.stack([matcher(box_iou(image["boxes"], x.table)) for image in images])
