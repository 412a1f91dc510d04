"""match_anchors: which ground-truth box each anchor of a batch is trained on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

import focaldet.ops
from focaldet import Anchors

from .common import Case, Run, Setup, Truth, call, ground_truth

SIZES = {"1 image of 20 boxes": (1, 20), "2 images of 100 boxes": (2, 100)}


class Inputs(NamedTuple):
    grid: Anchors
    table: Tensor  # the grid written out, for those who need it
    truth: Truth


def cases(setup: Setup) -> Iterator[Case]:
    table = focaldet.ops.generate_anchors(setup.anchors, setup.device)
    for name, (batch, boxes) in SIZES.items():
        yield Case(
            f"match_anchors, {len(table):,} anchors, {name}",
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
