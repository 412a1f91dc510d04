"""nms, batched_nms and nms_padded, on boxes strewn evenly and on boxes in clusters."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .. import peers
from ..case import Case, Provider, Run, Work, call
from ..inputs import COCO_800, CROWD, LVIS, Setup, Workload, random_boxes

IOU = 0.5
MAX_DETECTIONS = 100
FEW, MANY, QUICK = 1_000, 10_000, 50
LONG_LOOP = f"a Python loop over the kept boxes; see {FEW:,} boxes"


Layout = Callable[[Setup, int], Tensor]


class Inputs(NamedTuple):
    boxes: Tensor  # [N, 4]
    scores: Tensor  # [N], all different in float32: not every peer breaks ties alike
    labels: Tensor  # int64 [N]


def uniform(setup: Setup, n: int) -> Tensor:
    return random_boxes(setup, n, seed=0)


def clustered(setup: Setup, n: int) -> Tensor:
    """About 50 boxes around each object, each side off by some 4 pixels, as detectors give them."""
    objects = random_boxes(setup, max(1, n // 50), seed=0)
    rows = torch.arange(n, device=setup.device) % len(objects)
    shift = (torch.randn(n, 4, generator=setup.random(1)) * 32).round() / 8
    return objects[rows] + shift.to(objects)


def sparse(setup: Setup, n: int) -> Tensor:
    """32 px boxes on a canvas where each overlaps about 20 others."""
    side = (n * 64 * 64 / 20) ** 0.5
    corner = ((torch.rand(n, 2, generator=setup.random(0)) * side) * 8).round() / 8
    return torch.cat([corner, corner + 32], dim=1).to(setup.device, setup.dtype)


def chain(setup: Setup, n: int) -> Tensor:
    """Each box suppresses the next one and no other, if the scores fall: every other is kept."""
    x = torch.arange(n) * 3.0  # an IoU of 7/13, and of 4/16 with the one after
    boxes = torch.stack([x, torch.zeros(n), x + 10, torch.full((n,), 10.0)], dim=1)
    return boxes.to(setup.device, setup.dtype)


def inputs(
    setup: Setup,
    layout: Layout,
    n: int,
    classes: int = COCO_800.classes,
) -> Inputs:
    random = setup.random(2)
    scores = ((torch.randperm(n, generator=random) + 1) / n).to(setup.device, setup.dtype)
    labels = torch.randint(classes, (n,), generator=random).to(setup.device)
    return Inputs(layout(setup, n), scores, labels)


def one_group(x: Inputs) -> tuple[Any, ...]:
    return x.boxes, x.scores, IOU


def by_label(x: Inputs) -> tuple[Any, ...]:
    return x.boxes, x.scores, x.labels, IOU


def one_image(x: Inputs) -> tuple[Any, ...]:
    return x.boxes[None], x.scores[None], x.labels[None], IOU, 0.0, MAX_DETECTIONS


def torchvision_padded(x: Inputs) -> Run:
    """batched_nms, cut off and padded."""
    from torchvision.ops import batched_nms

    def run() -> tuple[Tensor, Tensor]:
        keep = batched_nms(*by_label(x))[:MAX_DETECTIONS]
        idx = keep.new_full((1, MAX_DETECTIONS), -1)
        idx[0, : len(keep)] = keep
        return idx, torch.tensor([len(keep)], device=keep.device)

    return run


FUNCTIONS: dict[str, dict[str, Provider]] = {
    "nms": {
        "focaldet": call("focaldet.ops:nms", one_group),
        "reference": call("focaldet.reference:nms", one_group),
        "torchvision": call("torchvision.ops:nms", one_group),
    },
    "batched_nms": {
        "focaldet": call("focaldet.ops:batched_nms", by_label),
        "reference": call("focaldet.reference:batched_nms", by_label),
        "torchvision": call("torchvision.ops:batched_nms", by_label),
    },
    "nms_padded": {
        "focaldet": call("focaldet.ops:nms_padded", one_image),
        "reference": call("focaldet.reference:nms_padded", one_image),
        "torchvision": torchvision_padded,
    },
}
PEERS = {"nms": peers.nms, "batched_nms": peers.batched_nms}
UNIFORM = "uniform boxes"
# Function, layout, how many, and the workload whose classes they have.
CASES = (
    ("nms", UNIFORM, FEW, COCO_800),
    ("nms", UNIFORM, MANY, COCO_800),
    ("nms", CROWD.name, MANY, COCO_800),
    ("batched_nms", UNIFORM, FEW, COCO_800),
    ("batched_nms", UNIFORM, MANY, COCO_800),
    ("batched_nms", CROWD.name, MANY, COCO_800),
    ("batched_nms", LVIS.name, MANY, LVIS),
    ("nms_padded", UNIFORM, FEW, COCO_800),
    ("nms_padded", CROWD.name, MANY, COCO_800),
)


def cases(setup: Setup) -> Iterator[Case]:
    for each in CASES:
        yield case(setup, *each)


def case(setup: Setup, function: str, layout: str, nominal: int, workload: Workload) -> Case:
    """On the usual image, whatever the classes."""
    n = QUICK if setup.quick else nominal
    providers = dict(FUNCTIONS[function])
    if function in PEERS:
        providers |= PEERS[function](setup, IOU)
    boxes = clustered if layout == CROWD.name else uniform
    sizes = {"N": n} if function == "nms" else {"N": n, "K": workload.classes}
    fields = 2 if function == "nms" else 3  # the labels are the third
    return Case(
        f"{function}, {nominal:,} {layout}" if layout == UNIFORM else f"{function}, {layout}",
        partial(inputs, COCO_800.of(setup), boxes, n, workload.classes),
        providers,
        sizes=sizes,
        work=lambda x, way: Work(read=sum(t.nbytes for t in x[:fields])),
        skip={"reference": LONG_LOOP} if nominal > FEW else {},
    )
