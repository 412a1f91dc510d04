"""match_anchors: which ground-truth box each anchor of a batch is trained on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

import focaldet.ops
from focaldet import Anchors

from .common import Case, Run, Setup, Truth, call, ground_truth


class Inputs(NamedTuple):
    grid: Anchors
    table: Tensor  # the grid written out, for those who need it
    truth: Truth


def cases(setup: Setup) -> Iterator[Case]:
    for batch, boxes in ((1, 20), (2, 100)):
        yield case(setup, batch, boxes)


def case(setup: Setup, batch: int, boxes: int) -> Case:
    """An image of the batch has so many boxes."""
    table = focaldet.ops.generate_anchors(setup.anchors, setup.device)
    images = "1 image" if batch == 1 else f"{batch} images"
    return Case(
        f"match_anchors, {len(table):,} anchors, {images} of {boxes} boxes",
        Inputs(setup.anchors, table, ground_truth(setup, batch, 80, boxes)),
        {
            "focaldet": call(
                "focaldet.ops:match_anchors", lambda x: (x.grid, x.truth.boxes, x.truth.splits)
            ),
            "reference": call(
                "focaldet.reference:match_anchors",
                lambda x: (x.table, x.truth.boxes, x.truth.splits),
            ),
            "torchvision": torchvision_provider,
        },
        moved=batch * len(table) * 4,  # the answer; anchors need not be read
    )


def torchvision_provider(x: Inputs) -> Run:
    from torchvision.models.detection._utils import Matcher
    from torchvision.ops import box_iou

    matcher = Matcher(0.5, 0.4, allow_low_quality_matches=True)
    images = x.truth.by_image()
    return lambda: torch.stack([matcher(box_iou(image["boxes"], x.table)) for image in images])
