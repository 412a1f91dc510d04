"""The two subnets of RetinaNet (paper, section 4), shared by all levels of the pyramid."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor, nn

from .resnet import group_norm

PRIOR = 0.01  # pi: the foreground probability that a new network states everywhere (section 3.3)
SIGMA = 0.01  # standard deviation of every new weight (section 4.1)


def _tower(channels: int, depth: int, norm: str | None) -> nn.Sequential:
    """`depth` 3x3 convolutions with ReLU; with norm "group" a GroupNorm replaces each bias."""
    tower = nn.Sequential()
    for _ in range(depth):
        layers: list[nn.Module] = [_conv3x3(channels, channels, 0.0 if norm is None else None)]
        if norm == "group":
            layers.append(group_norm(channels))
        tower.append(nn.Sequential(*layers, nn.ReLU(inplace=True)))
    return tower


def _conv3x3(inputs: int, outputs: int, bias: float | None = 0.0) -> nn.Conv2d:
    """`bias`: the value that it starts from; None: there is none."""
    conv = nn.Conv2d(inputs, outputs, 3, padding=1, bias=bias is not None)
    nn.init.normal_(conv.weight, std=SIGMA)
    if conv.bias is not None:
        nn.init.constant_(conv.bias, bias or 0.0)
    return conv


class ClassificationHead(nn.Module):
    """A level [B, C, H, W] to class logits [B, A*K, H, W], channel a*K + k."""

    def __init__(
        self, channels: int, num_anchors: int, num_classes: int, depth: int, norm: str | None
    ) -> None:
        super().__init__()
        self.conv: nn.Sequential = _tower(channels, depth, norm)
        prior_logit = -math.log((1 - PRIOR) / PRIOR)
        self.cls_logits: nn.Conv2d = _conv3x3(channels, num_anchors * num_classes, prior_logit)

    def forward(self, level: Tensor) -> Tensor:
        logits: Tensor = self.cls_logits(self.conv(level))
        return logits


class RegressionHead(nn.Module):
    """A level [B, C, H, W] to box deltas [B, A*4, H, W], channel a*4 + i."""

    def __init__(self, channels: int, num_anchors: int, depth: int, norm: str | None) -> None:
        super().__init__()
        self.conv: nn.Sequential = _tower(channels, depth, norm)
        self.bbox_reg: nn.Conv2d = _conv3x3(channels, num_anchors * 4)

    def forward(self, level: Tensor) -> Tensor:
        deltas: Tensor = self.bbox_reg(self.conv(level))
        return deltas


class RetinaNetHead(nn.Module):
    """Pyramid levels to the raw maps of both subnets, a list over levels each.

    The operators read the maps as they are: nothing is permuted or concatenated.
    """

    classification_head: ClassificationHead
    regression_head: RegressionHead

    def __init__(
        self,
        channels: int,
        num_anchors: int,
        num_classes: int,
        depth: int = 4,
        norm: str | None = None,  # None (the paper, torchvision's v1) or "group" (its v2)
    ) -> None:
        super().__init__()
        self.classification_head = ClassificationHead(
            channels, num_anchors, num_classes, depth, norm
        )
        self.regression_head = RegressionHead(channels, num_anchors, depth, norm)

    def forward(self, levels: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        cls_logits = [self.classification_head(level) for level in levels]
        box_deltas = [self.regression_head(level) for level in levels]
        return cls_logits, box_deltas
