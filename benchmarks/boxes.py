"""box_iou, encode_boxes and decode_boxes on the anchors of an image."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

import focaldet.ops

from .common import Case, Run, Setup, call, random_boxes

BOXES = 100


class Inputs(NamedTuple):
    anchors: Tensor  # [n, 4]
    few: Tensor  # [100, 4]: the ground truth
    many: Tensor  # [n, 4]: a box for each anchor
    deltas: Tensor  # [n, 4]


def inputs(setup: Setup) -> Inputs:
    table = focaldet.ops.generate_anchors(setup.anchors, setup.device).to(setup.dtype)
    deltas = torch.randn(len(table), 4, generator=setup.random(0)) * 0.2
    return Inputs(
        table,
        random_boxes(setup, BOXES, seed=1),
        random_boxes(setup, len(table), seed=2),
        deltas.to(setup.device, setup.dtype),
    )


def cases(setup: Setup) -> Iterator[Case]:
    x = inputs(setup)
    n, result = len(x.anchors), max(4, setup.dtype.itemsize)  # half types come out as float32
    yield Case(
        f"box_iou, {BOXES} x {n:,}",
        x,
        {
            "focaldet": call("focaldet.ops:box_iou", lambda x: (x.few, x.anchors)),
            "reference": call("focaldet.reference:box_iou", lambda x: (x.few, x.anchors)),
            "torchvision": call("torchvision.ops:box_iou", lambda x: (x.few, x.anchors)),
        },
        moved=x.anchors.nbytes + x.few.nbytes + BOXES * n * result,
    )
    yield Case(
        f"encode_boxes, {n:,}",
        x,
        {
            "focaldet": call("focaldet.ops:encode_boxes", lambda x: (x.many, x.anchors)),
            "reference": call("focaldet.reference:encode_boxes", lambda x: (x.many, x.anchors)),
            "torchvision": torchvision_encode,
        },
        moved=x.anchors.nbytes + x.many.nbytes + 4 * n * result,
    )
    yield Case(
        f"decode_boxes, {n:,}",
        x,
        {
            "focaldet": call("focaldet.ops:decode_boxes", lambda x: (x.deltas, x.anchors)),
            "reference": call("focaldet.reference:decode_boxes", lambda x: (x.deltas, x.anchors)),
            "torchvision": torchvision_decode,
        },
        moved=x.anchors.nbytes + x.deltas.nbytes + 4 * n * result,
    )


def torchvision_encode(x: Inputs) -> Run:
    from torchvision.models.detection._utils import BoxCoder

    coder = BoxCoder((1.0, 1.0, 1.0, 1.0))
    return lambda: coder.encode_single(x.many, x.anchors)


def torchvision_decode(x: Inputs) -> Run:
    from torchvision.models.detection._utils import BoxCoder

    coder = BoxCoder((1.0, 1.0, 1.0, 1.0))
    return lambda: coder.decode_single(x.deltas, x.anchors)
