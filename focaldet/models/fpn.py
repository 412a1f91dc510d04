"""The feature pyramid: Lin et al. 2016, "Feature Pyramid Networks", with RetinaNet's levels."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from ..ops import AnchorGrid

LEVELS = 5  # of the pyramid


def level_strides(finest: int) -> tuple[int, ...]:
    return tuple(2 ** (finest + i) for i in range(LEVELS))


def check_levels(grid: AnchorGrid, finest: int) -> None:
    """Raises ValueError unless the anchors are those of five levels, the finest being P2 or P3."""
    levels = f"P{finest} to P{finest + LEVELS - 1}"
    if len(grid.cell_anchors) != LEVELS:
        raise ValueError(
            f"anchor_grid: expected the {LEVELS} levels {levels}, got {len(grid.cell_anchors)}"
        )
    strides = level_strides(finest)
    if grid.strides not in ("image", strides):
        raise ValueError(
            f'anchor_grid: expected "image" or the strides {strides} of {levels}, '
            f"got {grid.strides}"
        )


class FeaturePyramid(nn.Module):
    """C3, C4, C5 to P3 .. P7, strides 8 to 128, or C2 .. C5 to P2 .. P6, strides 4 to 64.

    All have `channels` channels. P6 is a strided 3x3 convolution on C5 (`p6_from="c5"`: the paper,
    torchvision's v2) or on P5 ("p5": torchvision's v1); P7 is one on relu(P6), or on P6
    (`p7_relu=False`: mmdetection).
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        channels: int = 256,
        p6_from: str = "p5",
        p7_relu: bool = True,
    ) -> None:
        super().__init__()
        self.p6_from: str = p6_from
        self.p7_relu: bool = p7_relu
        # Sequentials of one, for torchvision's parameter names end in ".0".
        self.inner_blocks: nn.ModuleList = nn.ModuleList(
            nn.Sequential(nn.Conv2d(c, channels, 1)) for c in in_channels
        )
        self.layer_blocks: nn.ModuleList = nn.ModuleList(
            nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1)) for _ in in_channels
        )
        p6_channels = in_channels[-1] if p6_from == "c5" else channels
        self.extra_blocks: nn.ModuleDict = nn.ModuleDict(
            {"p6": nn.Conv2d(p6_channels, channels, 3, stride=2, padding=1)}
        )
        if len(in_channels) + 1 < LEVELS:
            self.extra_blocks["p7"] = nn.Conv2d(channels, channels, 3, stride=2, padding=1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d) and module.bias is not None:  # all have one
                nn.init.kaiming_uniform_(module.weight, a=1)  # Xavier by fan-in, as FPN's authors
                nn.init.zeros_(module.bias)

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        merged = [block(c) for block, c in zip(self.inner_blocks, features, strict=True)]
        for i in range(len(merged) - 2, -1, -1):  # top-down
            merged[i] += F.interpolate(merged[i + 1], size=merged[i].shape[-2:], mode="nearest")
        levels = [block(m) for block, m in zip(self.layer_blocks, merged, strict=True)]
        p6 = self.extra_blocks["p6"](features[-1] if self.p6_from == "c5" else levels[-1])
        levels.append(p6)
        if "p7" in self.extra_blocks:
            levels.append(self.extra_blocks["p7"](F.relu(p6) if self.p7_relu else p6))
        return levels


class BodyWithFPN(nn.Module):
    """Images [B, 3, H, W] to the five levels of the pyramid."""

    def __init__(self, body: nn.Module, fpn: FeaturePyramid) -> None:
        super().__init__()
        self.body = body
        self.fpn = fpn

    def forward(self, images: Tensor) -> list[Tensor]:
        levels: list[Tensor] = self.fpn(self.body(images))
        return levels
