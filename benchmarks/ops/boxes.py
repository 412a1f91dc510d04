"""box_iou, encode_boxes and decode_boxes, which alone has a gradient, on an image's anchors."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

import focaldet.ops
import focaldet.reference

from .. import peers
from ..case import BACKWARD, FORWARD, WAYS, Case, Run, Work, call
from ..compiled import compiled, compiled_both_ways
from ..inputs import COCO_800, Setup, random_boxes
from ..peers import of_one

BOXES = 100
# 4 for the overlap's corners, 2 for its sides, 2 clamps, a product, 2 for the union, a quotient
PER_PAIR = 12


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


def inputs_to_decode(setup: Setup) -> Inputs:
    x = inputs(setup)
    return x._replace(deltas=x.deltas.requires_grad_())


def cases(setup: Setup) -> Iterator[Case]:
    sized = COCO_800.of(setup)
    made, n = partial(inputs, sized), len(sized.anchors)
    yield Case(
        f"box_iou, {COCO_800.name}",
        made,
        {
            "focaldet": call("focaldet.ops:box_iou", pairs),
            "reference": call("focaldet.reference:box_iou", pairs),
            "torchvision": call("torchvision.ops:box_iou", pairs),
            "torch.compile": compiled(focaldet.reference.box_iou, pairs),
            **peers.box_iou(setup),
        },
        sizes={"N": BOXES, "M": n},
        work=lambda x, way: Work(
            x.anchors.nbytes + x.few.nbytes, BOXES * n * result_size(setup), PER_PAIR * BOXES * n
        ),
    )
    yield Case(
        f"encode_boxes, {COCO_800.name}",
        made,
        {
            "focaldet": call("focaldet.ops:encode_boxes", to_encode),
            "reference": call("focaldet.reference:encode_boxes", to_encode),
            "torchvision": torchvision_encode,
            "torch.compile": compiled(focaldet.reference.encode_boxes, to_encode),
            **peers.encoding(),
        },
        sizes={"N": n},
        work=lambda x, way: Work(x.anchors.nbytes + x.many.nbytes, 4 * n * result_size(setup)),
    )
    yield Case(
        f"decode_boxes, {COCO_800.name}",
        partial(inputs_to_decode, sized),
        {
            "focaldet": partial(decode_both_ways, focaldet.ops.decode_boxes),
            "reference": partial(decode_both_ways, focaldet.reference.decode_boxes),
            "torchvision": torchvision_decode,
            "torch.compile": compiled_both_ways(focaldet.reference.decode_boxes, to_decode),
            **peers.decoding(),
        },
        sizes={"N": n},
        ways=WAYS,
        work=partial(work_of_decoding, result_size(setup)),
    )


def work_of_decoding(size: int, x: Inputs, way: str) -> Work | None:
    """Both ways read the gradient of the boxes, too, and write that of the deltas."""
    if way == BACKWARD:
        return None
    given, boxes = x.anchors.nbytes + x.deltas.nbytes, x.deltas.numel() * size
    return Work(given, boxes) if way == FORWARD else Work(given + boxes, boxes + x.deltas.nbytes)


def result_size(setup: Setup) -> int:
    """Bytes of a number: half types come out as float32."""
    return max(4, setup.dtype.itemsize)


def pairs(x: Inputs) -> tuple[Tensor, Tensor]:
    return x.few, x.anchors


def to_encode(x: Inputs) -> tuple[Tensor, Tensor]:
    return x.many, x.anchors


def to_decode(x: Inputs) -> tuple[Tensor, Tensor]:
    return x.deltas, x.anchors


def torchvision_encode(x: Inputs) -> Run:
    from torchvision.models.detection._utils import BoxCoder

    coder = BoxCoder((1.0, 1.0, 1.0, 1.0))
    return lambda: coder.encode_single(x.many, x.anchors)


def torchvision_decode(x: Inputs) -> Run:
    from torchvision.models.detection._utils import BoxCoder

    return decode_both_ways(BoxCoder((1.0, 1.0, 1.0, 1.0)).decode_single, x)


def decode_both_ways(decode: Callable[[Tensor, Tensor], Tensor], x: Inputs) -> Run:
    return of_one(lambda: decode(x.deltas, x.anchors), x.deltas)
