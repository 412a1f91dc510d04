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
        layers: list[nn.Module] = [_conv3x3(channels, channels, bias=norm is None)]
        if norm == "group":
            layers.append(group_norm(channels))
        tower.append(nn.Sequential(*layers, nn.ReLU(inplace=True)))
    return tower


def _conv3x3(inputs: int, outputs: int, bias: bool = True) -> nn.Conv2d:
    conv = nn.Conv2d(inputs, outputs, 3, padding=1, bias=bias)
    nn.init.normal_(conv.weight, std=SIGMA)
    if bias:
        nn.init.zeros_(conv.bias)
    return conv


class ClassificationHead(nn.Module):
    """A level [B, C, H, W] to class logits [B, A*K, H, W], channel a*K + k."""

    def __init__(
        self, channels: int, num_anchors: int, num_classes: int, depth: int, norm: str | None
    ) -> None:
        super().__init__()
        self.conv = _tower(channels, depth, norm)
        self.cls_logits = _conv3x3(channels, num_anchors * num_classes)
        nn.init.constant_(self.cls_logits.bias, -math.log((1 - PRIOR) / PRIOR))

    def forward(self, level: Tensor) -> Tensor:
        return self.cls_logits(self.conv(level))


class RegressionHead(nn.Module):
    """A level [B, C, H, W] to box deltas [B, A*4, H, W], channel a*4 + i."""

    def __init__(self, channels: int, num_anchors: int, depth: int, norm: str | None) -> None:
        super().__init__()
        self.conv = _tower(channels, depth, norm)
        self.bbox_reg = _conv3x3(channels, num_anchors * 4)

    def forward(self, level: Tensor) -> Tensor:
        return self.bbox_reg(self.conv(level))


class RetinaNetHead(nn.Module):
    """Pyramid levels to the raw maps of both subnets, a list over levels each.

    The operators read the maps as they are: nothing is permuted or concatenated.
    """

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
