"""torchvision's detectors for the bars of drop_in.py: random weights, with scores as trained ones
give them, and pictures to train on."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..case import Run
from ..inputs import IMAGE, Setup, ground_truth

CLASSES = 91


class Detector(NamedTuple):
    """title and make: which, and how to build it; last: the layers that give its class logits;
    mean: of these logits, their deviation is 1. background: whether the first class is that, and
    has a logit of -mean while the others have none. batch: images of a training step."""

    title: str
    make: Callable[..., nn.Module]
    last: Callable[[nn.Module], Iterable[nn.Module]]
    mean: float
    background: bool
    batch: int


def detectors(quick: bool) -> dict[str, Detector]:
    """Quick: the smallest that exist, on thumbnails."""
    from torchvision.models import detection

    heads = {
        "conv": lambda model: [model.head.classification_head.cls_logits],
        "convs": lambda model: [
            layer
            for level in model.head.classification_head.module_list
            for layer in [*level.modules()][-1:]
        ],
        "linear": lambda model: [model.roi_heads.box_predictor.cls_score],
    }
    ssd = detection.ssdlite320_mobilenet_v3_large if quick else detection.ssd300_vgg16
    rcnn = (
        detection.fasterrcnn_mobilenet_v3_large_320_fpn
        if quick
        else detection.fasterrcnn_resnet50_fpn
    )
    return {
        "RetinaNet": Detector(
            "RetinaNet R50 FPN", detection.retinanet_resnet50_fpn, heads["conv"], -6.5, False, 2
        ),
        "FCOS": Detector("FCOS R50 FPN", detection.fcos_resnet50_fpn, heads["conv"], -6, False, 1),
        "SSD": Detector("SSD300 VGG16", ssd, heads["convs"], -8, True, 4),
        "Faster R-CNN": Detector("Faster R-CNN R50 FPN", rcnn, heads["linear"], -5, True, 1),
    }


def model_of(detector: Detector, setup: Setup, images: list[Tensor]) -> nn.Module:
    """In evaluation mode, settled on the images."""
    height, width = setup.image
    torch.manual_seed(0)
    sizes = {} if detector.title.startswith("SSD") else {"min_size": height, "max_size": width}
    model = detector.make(weights=None, weights_backbone=None, num_classes=CLASSES, **sizes)
    settle(model, images)
    spread(model, detector, images)
    return model


@torch.no_grad()
def settle(model: nn.Module, images: list[Tensor]) -> None:
    """Batch statistics that fit. The blocks of a new ResNet add as much as they are given, and 16
    of them make of a rounding error a thousand times as much; these add a fifth, as trained ones.
    """
    from torchvision.models.resnet import Bottleneck

    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    usual = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 1.0
    for module in model.modules():
        if isinstance(module, Bottleneck):
            module.bn3.weight.fill_(0.2)
    model.train().backbone(model.transform(images)[0].tensors)
    for norm, momentum in zip(norms, usual, strict=True):
        norm.momentum = momentum
    model.eval()


@torch.no_grad()
def spread(model: nn.Module, detector: Detector, images: list[Tensor]) -> None:
    """Rescales the last layers, so that a few hundred scores exceed the threshold."""
    layers, found = list(detector.last(model)), []
    hooks = [
        layer.register_forward_hook(lambda layer, args, out: found.append(out.flatten()))
        for layer in layers
    ]
    model(images)
    for hook in hooks:
        hook.remove()
    deviation = torch.cat(found).std()
    for layer in layers:
        layer.weight /= deviation
        layer.bias.fill_(0.0 if detector.background else detector.mean)
        if detector.background:
            layer.bias[::CLASSES] = -detector.mean


def pictures(setup: Setup, batch: int) -> tuple[list[Tensor], list[dict[str, Tensor]]]:
    """Images, and 20 boxes for each. No box is of class 0, which may be the background."""
    random = setup.random(0)
    images = [torch.rand(3, *setup.image, generator=random) for _ in range(batch)]
    targets = ground_truth(setup, batch, CLASSES - 1).by_image()
    return images, [t | {"labels": t["labels"] + 1} for t in targets]


def size_of(name: str, setup: Setup) -> Setup:
    """SSD has its own size of image."""
    return setup if setup.quick else replace(setup, image=(300, 300) if name == "SSD" else IMAGE)


# What is timed -----------------------------------------------------------------------------------


def inference(model: nn.Module, images: list[Tensor]) -> Run:
    @torch.no_grad()
    def run() -> list[dict[str, Tensor]]:
        model.eval()
        return model(images)

    return run


def training_step(model: nn.Module, images: list[Tensor], targets: list[dict[str, Tensor]]) -> Run:
    """Forward, backward and SGD with a learning rate of 0: every step does the same work. Returns
    the losses by name and the norm of the gradient."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0, momentum=0.9)

    def run() -> dict[str, float]:
        model.train()
        torch.manual_seed(0)  # R-CNNs draw what they train on
        optimizer.zero_grad()
        losses = model(images, targets)
        sum(losses.values()).backward()
        optimizer.step()
        norms = [p.grad.norm() for p in model.parameters() if p.grad is not None]
        found = {name: loss.item() for name, loss in losses.items()}
        return found | {"gradient": torch.stack(norms).norm().item()}

    return run
