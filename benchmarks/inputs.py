"""Inputs: drawn at random, but as a detector gives them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from focaldet import AnchorGrid, Anchors

IMAGE = (800, 1333)  # height, width: the usual size
THUMBNAIL = (64, 90)  # with --quick


@dataclass(frozen=True)
class Setup:
    """Where, in what type and how large. Random inputs are drawn on the CPU, and so are the same
    on every device."""

    device: torch.device
    dtype: torch.dtype
    image: tuple[int, int]  # height, width
    quick: bool

    def random(self, seed: int) -> torch.Generator:
        return torch.Generator().manual_seed(seed)

    @property
    def padded(self) -> tuple[int, int]:
        height, width = (-(-side // 32) * 32 for side in self.image)
        return height, width

    @property
    def anchors(self) -> Anchors:
        """torchvision's on P3 to P7: 201,600 for an image of 800 x 1333."""
        height, width = self.padded
        strides = (8, 16, 32, 64, 128)
        sizes = [(-(-height // stride), -(-width // stride)) for stride in strides]
        return AnchorGrid.torchvision().at(sizes, self.padded)


class Workload(NamedTuple):
    """Inputs by the name under which every operator that takes such inputs is timed on them."""

    name: str
    image: tuple[int, int]
    classes: int
    boxes: int = 20  # of the ground truth
    smallest: int = 16  # pixels, a side of a box
    largest: int = 256
    logits: float = -6.5  # their mean: about 2 in 10,000 scores of a trained head exceed 0.05

    def of(self, setup: Setup) -> Setup:
        return setup if setup.quick else replace(setup, image=self.image)


COCO_800 = Workload("RetinaNet 800 x 1333", IMAGE, 80)
COCO_640 = Workload("RetinaNet 640 x 640", (640, 640), 80)
# Crowds and shelves: hundreds of small objects, and about a candidate in twelve of all scores.
CROWD = Workload("dense crowd", (640, 640), 80, boxes=500, smallest=8, largest=48, logits=-4.34)
LVIS = Workload("LVIS: 1203 classes", (320, 320), 1203)  # as many logits as COCO at 800 x 1333


class Truth(NamedTuple):
    boxes: Tensor  # [T, 4]
    labels: Tensor  # int64 [T]
    splits: Tensor  # int64 [B + 1]

    def by_image(self) -> list[dict[str, Tensor]]:
        """As torchvision's models take it."""
        starts = self.splits[1:-1].cpu()
        parts = zip(self.boxes.tensor_split(starts), self.labels.tensor_split(starts), strict=True)
        return [{"boxes": boxes, "labels": labels} for boxes, labels in parts]


def random_boxes(setup: Setup, n: int, seed: int, smallest: int = 16, largest: int = 256) -> Tensor:
    """[n, 4], uniform over the image, in steps of 1/8 pixel: torchvision tells classes apart by
    shifting coordinates, which is exact for these, so that results can be compared to the bit."""
    random, (height, width) = setup.random(seed), setup.image
    size = torch.rand(n, 2, generator=random) * (largest - smallest) + smallest
    center = torch.rand(n, 2, generator=random) * torch.tensor([width, height])
    boxes = torch.cat([center - size / 2, center + size / 2], dim=1)
    return ((boxes * 8).round() / 8).to(setup.device, setup.dtype)


def ground_truth(
    setup: Setup,
    batch: int,
    classes: int,
    per_image: int = 20,
    smallest: int = 16,
    largest: int = 256,
) -> Truth:
    n = batch * per_image
    labels = torch.randint(classes, (n,), generator=setup.random(1)).to(setup.device)
    splits = torch.arange(0, n + 1, per_image, device=setup.device)
    boxes = random_boxes(setup, n, 2, smallest, largest)
    return Truth(boxes.float(), labels, splits)


def head_maps(
    setup: Setup, batch: int, classes: int, mean: float = -6.5
) -> tuple[list[Tensor], list[Tensor]]:
    """Raw class and box maps by level, as a trained head gives them: of the scores, about 2 in
    10,000 exceed 0.05 with this mean of the logits."""
    random, grid = setup.random(3), setup.anchors

    def maps(channels: int, mean: float, std: float) -> list[Tensor]:
        return [
            (torch.randn(batch, channels, *size, generator=random) * std + mean).to(
                setup.device, setup.dtype
            )
            for size in grid.feature_sizes
        ]

    return maps(grid.per_position * classes, mean, 1.0), maps(grid.per_position * 4, 0.0, 0.2)
