"""`python -m benchmarks.bars.drop_in_cases`: times the stages of torchvision's RetinaNet that
`accelerate` replaces, on the CPU, for the bars of drop_in.py.

A stage is all that lies between the outputs of the head's last convolutions and the losses, or the
detections: torchvision's permuted and concatenated maps and its anchors are in it.
"""

from __future__ import annotations

import sys
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from focaldet.integrations.torchvision import accelerate

from ..case import BOTH, Case, Consuming, Run
from ..inputs import Setup, ground_truth, head_maps
from ..ops.postprocess import detections_differ
from . import command
from .drop_in_models import CLASSES
from .loss_cases import Maps, outputs

PROVIDERS = ("torchvision", "focaldet")


class Inputs(NamedTuple):
    setup: Setup
    cls_logits: list[Tensor]  # [B, A * K, H, W] by level
    box_deltas: list[Tensor]  # [B, A * 4, H, W] by level
    targets: list[dict[str, Tensor]]


def main(argv: Sequence[str] | None = None) -> int:
    return command.main("drop_in_cases", __doc__, cases, argv)


def cases(setup: Setup) -> Iterator[tuple[str, Case]]:
    """By the names that drop_in.py's targets have for them."""
    yield (
        "loss",
        Case(
            "torchvision's RetinaNet, loss stage",
            partial(inputs, setup, 2),
            {name: partial(losses, name) for name in PROVIDERS},
            ways=(BOTH,),
        ),
    )
    yield (
        "post-process",
        Case(
            "torchvision's RetinaNet, post-process stage",
            partial(inputs, setup, 1),
            {name: partial(detections, name) for name in PROVIDERS},
            differ=detections_differ,
        ),
    )


def inputs(setup: Setup, batch: int) -> Inputs:
    maps = head_maps(setup, batch, CLASSES)
    for level in [*maps[0], *maps[1]]:
        level.requires_grad_()
    return Inputs(setup, *maps, ground_truth(setup, batch, CLASSES).by_image())


class Stages:
    """A RetinaNet whose convolutions are left out: its maps are given."""

    def __init__(self, provider: str, x: Inputs) -> None:
        from torchvision.models.detection import RetinaNet
        from torchvision.models.detection.image_list import ImageList

        backbone = nn.Identity()
        backbone.out_channels = 8
        self.model = RetinaNet(backbone, CLASSES)
        head = self.model.head
        head.classification_head.conv = head.classification_head.cls_logits = nn.Identity()
        head.regression_head.conv = head.regression_head.bbox_reg = nn.Identity()
        self.replaced = provider == "focaldet"
        if self.replaced:
            accelerate(self.model)
        batch = len(x.targets)
        # Only the shape of the images is asked for.
        images = torch.empty(1, 1, 1).expand(batch, *x.setup.padded)
        self.images = ImageList(images, [x.setup.image] * batch)

    def head(self, cls_logits: list[Tensor], box_deltas: list[Tensor]) -> tuple[Any, Any]:
        """The head's outputs and the anchors."""
        head = self.model.head
        maps = OrderedDict(
            cls_logits=head.classification_head(cls_logits),
            bbox_regression=head.regression_head(box_deltas),
        )
        return maps, self.model.anchor_generator(self.images, box_deltas)

    def split(self, maps: Any, anchors: Any, levels: list[Tensor]) -> tuple[Any, Any]:
        """By level, as torchvision's forward does."""
        if self.replaced:
            return maps, anchors
        lengths = [level.shape[1] // 4 * level[0, 0].numel() for level in levels]
        parts = {name: list(each.split(lengths, dim=1)) for name, each in maps.items()}
        return parts, [list(each.split(lengths)) for each in anchors]


def losses(provider: str, x: Inputs) -> Run:
    """Both ways from maps as a convolution hands them over."""
    stages = Stages(provider, x)

    def use(given: Maps) -> tuple[Tensor, ...]:
        maps, anchors = stages.head(*given)
        found = stages.model.compute_loss(x.targets, maps, anchors)
        total = found["classification"] + found["bbox_regression"]
        gradients = torch.autograd.grad(total, [*given[0], *given[1]])
        return found["classification"], found["bbox_regression"], *gradients

    return Consuming(partial(outputs, (x.cls_logits, x.box_deltas)), use)


def detections(provider: str, x: Inputs) -> Callable[[], list[dict[str, Tensor]]]:
    stages = Stages(provider, x)

    @torch.no_grad()
    def run() -> list[dict[str, Tensor]]:
        maps, anchors = stages.split(*stages.head(x.cls_logits, x.box_deltas), x.box_deltas)
        return stages.model.postprocess_detections(maps, anchors, [x.setup.image])

    return run


if __name__ == "__main__":
    sys.exit(main())
