"""generate_anchors: the anchors of one image, written out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from ..case import Case, Run, Work, call
from ..inputs import COCO_640, COCO_800, Setup, Workload


def cases(setup: Setup) -> Iterator[Case]:
    for workload in (COCO_800, COCO_640):
        yield case(setup, workload)


def case(setup: Setup, workload: Workload) -> Case:
    sized = workload.of(setup)
    return Case(
        f"generate_anchors, {workload.name}",
        lambda: sized,
        {
            "focaldet": call("focaldet.ops:generate_anchors", arguments),
            "reference": call("focaldet.reference:generate_anchors", arguments),
            "torchvision": torchvision_provider,
        },
        sizes={"N": len(sized.anchors)},
        work=lambda s, way: Work(written=len(s.anchors) * 4 * 4),
    )


def arguments(setup: Setup) -> tuple[Any, ...]:
    return setup.anchors, setup.device


def torchvision_provider(setup: Setup) -> Run:
    """It learns the sizes from the batch and the feature maps."""
    from torchvision.models.detection.image_list import ImageList
    from torchvision.models.detection.retinanet import _default_anchorgen

    generator = _default_anchorgen()
    images = ImageList(torch.empty(1, 3, *setup.padded, device=setup.device), [setup.image])
    features = [
        torch.empty(1, 1, *size, device=setup.device) for size in setup.anchors.feature_sizes
    ]
    return lambda: generator(images, features)[0]
