"""RetinaNet with ResNet-18: one training step and one inference.

All providers hold the same weights. The reference is our model with the twins of its two operators.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

import focaldet.reference
from focaldet.models import Detections, RetinaNet

from ..case import BOTH, Case, Run
from ..inputs import Setup, ground_truth
from .postprocess import detections_differ

CLASSES = 80
SMALL = (240, 320)  # pictures of cells or scenes, trained on from scratch


class Inputs(NamedTuple):
    model: RetinaNet
    images: list[Tensor]  # [3, H, W]
    targets: list[dict[str, Tensor]]
    autocast: torch.autocast  # to --dtype; does nothing for float32


def inputs(setup: Setup, batch: int, classes: int, backbone: str = "resnet18") -> Inputs:
    height, width = setup.image
    torch.manual_seed(0)
    model = RetinaNet(
        classes,
        backbone,
        min_size=height,
        max_size=width,
        box_loss="l1",  # as torchvision, as the normalizer, so that losses can be compared
        normalizer="image",
    )
    images = [torch.rand(3, height, width).to(setup.device) for _ in range(batch)]
    targets = ground_truth(setup, batch, classes).by_image()
    half = setup.dtype != torch.float32
    autocast = torch.autocast(setup.device.type, setup.dtype if half else None, enabled=half)
    return Inputs(model.to(setup.device), images, targets, autocast)


def cases(setup: Setup) -> Iterator[Case]:
    small = replace(setup, image=SMALL)
    training = [(setup, 1, 3)] if setup.quick else [(small, 8, 3), (setup, 1, CLASSES)]
    for size, batch, classes in training:
        yield Case(
            f"RetinaNet-R18, training step, {title(size, batch, classes)}",
            partial(inputs, size, batch, classes),
            {
                "focaldet": lambda x: training_step(copy.deepcopy(x.model), x),
                "reference": reference_training,
                "torchvision": lambda x: training_step(torchvision_model(x), x),
            },
            ways=(BOTH,),
        )
    yield Case(
        f"RetinaNet-R18, inference, {title(setup, 1, CLASSES)}",
        partial(spread_inputs, setup),
        {
            "focaldet": lambda x: inference(x.model, x),
            "reference": lambda x: inference(reference_detector(x), x),
            "torchvision": lambda x: inference(torchvision_model(x), x),
        },
        differ=detections_differ,
    )


def title(setup: Setup, batch: int, classes: int) -> str:
    return f"B={batch}, {setup.image[0]} x {setup.image[1]}, K={classes}"


def training_step(model: nn.Module, x: Inputs) -> Run:
    """Forward, backward and SGD. The learning rate is 0: every step does the same work."""
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0, momentum=0.9)

    def run() -> list[Tensor]:
        optimizer.zero_grad()
        with x.autocast:
            losses = model(x.images, x.targets)
        sum(losses.values()).backward()
        optimizer.step()
        return [*losses.values(), model.get_parameter("backbone.body.conv1.weight").grad]

    return run


def inference(model: nn.Module, x: Inputs) -> Run:
    model.eval()

    @torch.no_grad()
    def run() -> list[dict[str, Tensor]]:
        with x.autocast:
            return model(x.images)

    return run


def reference_training(x: Inputs) -> Run:
    model = copy.deepcopy(x.model)
    model.criterion = partial(focaldet.reference.retinanet_loss, **x.model.criterion.keywords)
    return training_step(model, x)


def reference_detector(x: Inputs) -> nn.Module:
    model = copy.deepcopy(x.model)

    def detect(batch: Tensor, image_sizes: Tensor) -> Detections:
        cls_logits, box_deltas = model.features(batch)
        return Detections(
            *focaldet.reference.retinanet_postprocess(
                cls_logits,
                box_deltas,
                model.anchors(cls_logits, batch),
                image_sizes,
                model.score_thresh,
                model.topk_candidates,
                model.nms_thresh,
                model.detections_per_img,
            )
        )

    model.detect = detect
    return model


def spread_inputs(setup: Setup) -> Inputs:
    x = inputs(setup, 1, CLASSES)
    spread_scores(x)
    return x


@torch.no_grad()
def spread_scores(x: Inputs) -> None:
    """Rescales the last layer so that scores spread as a trained detector's: about 2 in 10,000
    exceed 0.05. With fresh weights none would, and nothing would be left to decode."""
    model = x.model.eval()
    cls_logits, _ = model.features(model.transform.images(x.images).batch)
    logits = torch.cat([level.flatten() for level in cls_logits])
    last = model.head.classification_head.cls_logits
    last.weight /= logits.std()
    last.bias.fill_(-6.5)


def torchvision_model(x: Inputs) -> nn.Module:
    from torchvision.models.detection import RetinaNet as TorchvisionRetinaNet
    from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
    from torchvision.ops.feature_pyramid_network import LastLevelP6P7

    config = x.model.config
    backbone = resnet_fpn_backbone(
        backbone_name=config["backbone"],
        weights=None,
        norm_layer=nn.BatchNorm2d,
        trainable_layers=5,
        returned_layers=[2, 3, 4],
        extra_blocks=LastLevelP6P7(256, 256),
    )
    sizes = {name: config[name] for name in ("num_classes", "min_size", "max_size")}
    model = TorchvisionRetinaNet(backbone, **sizes)
    model.load_state_dict(x.model.state_dict())
    return model.to(x.images[0].device)
