"""ResNet bodies (He et al. 2015, "Deep Residual Learning for Image Recognition").

Parameter names are torchvision's, and so, unless said, is the place of the stride: in a bottleneck
the 3x3 convolution has it ("ResNet v1.5"). In the paper, and in the weights that its authors
published ("MSRA", "caffe"), the first 1x1 has it: same shapes, other features.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Norm = Callable[[int], nn.Module]


class FrozenBatchNorm(nn.Module):
    """BatchNorm2d with fixed statistics and fixed scale and shift, all four of them buffers.

    What pretrained weights and small batches call for. Unloaded, it is the identity. State dicts of
    `nn.BatchNorm2d` and of torchvision's `FrozenBatchNorm2d` load with strict=True.
    """

    weight: Tensor
    bias: Tensor
    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.register_buffer("weight", torch.ones(channels))
        self.register_buffer("bias", torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:  # [B, C, H, W]
        return F.batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps
        )

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        state_dict.pop(f"{prefix}num_batches_tracked", None)  # BatchNorm2d's, of no use here
        super()._load_from_state_dict(state_dict, prefix, *args)

    def extra_repr(self) -> str:
        return f"{len(self.weight)}, eps={self.eps}"


def group_norm(channels: int) -> nn.GroupNorm:
    """GroupNorm with the paper's 32 groups (Wu and He 2018), or as many of them as fit.

    A group has two channels at least: one alone would be wiped out on a map of one pixel.
    """
    return nn.GroupNorm(min(math.gcd(32, channels), max(1, channels // 2)), channels)


NORMS: dict[str, Norm] = {
    "batch": nn.BatchNorm2d,
    "frozen": FrozenBatchNorm,
    "group": group_norm,
}


def _conv(inputs: int, outputs: int, size: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, size, stride, padding=size // 2, bias=False)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions around which a shortcut leads."""

    expansion = 1

    def __init__(
        self, inputs: int, planes: int, stride: int, shortcut: nn.Module | None, norm: Norm
    ) -> None:
        super().__init__()
        self.conv1: nn.Conv2d = _conv(inputs, planes, 3, stride)
        self.bn1: nn.Module = norm(planes)
        self.conv2: nn.Conv2d = _conv(planes, planes, 3)
        self.bn2: nn.Module = norm(planes)
        self.downsample = shortcut

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)), inplace=True)
        y = self.bn2(self.conv2(y))
        y += x if self.downsample is None else self.downsample(x)
        return F.relu(y, inplace=True)


class Bottleneck(nn.Module):
    """1x1 down to `planes` channels, 3x3, 1x1 up to four times as many, and a shortcut."""

    expansion = 4

    def __init__(
        self,
        inputs: int,
        planes: int,
        stride: int,
        shortcut: nn.Module | None,
        norm: Norm,
        stride_in: str = "3x3",
    ) -> None:
        super().__init__()
        first, second = (stride, 1) if stride_in == "1x1" else (1, stride)
        self.conv1: nn.Conv2d = _conv(inputs, planes, 1, first)
        self.bn1: nn.Module = norm(planes)
        self.conv2: nn.Conv2d = _conv(planes, planes, 3, second)
        self.bn2: nn.Module = norm(planes)
        self.conv3: nn.Conv2d = _conv(planes, planes * self.expansion, 1)
        self.bn3: nn.Module = norm(planes * self.expansion)
        self.downsample = shortcut

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)), inplace=True)
        y = F.relu(self.bn2(self.conv2(y)), inplace=True)
        y = self.bn3(self.conv3(y))
        y += x if self.downsample is None else self.downsample(x)
        return F.relu(y, inplace=True)


STRIDES_IN = ("3x3", "1x1")
VARIANTS: dict[str, tuple[type[BasicBlock] | type[Bottleneck], tuple[int, int, int, int]]] = {
    "resnet18": (BasicBlock, (2, 2, 2, 2)),
    "resnet34": (BasicBlock, (3, 4, 6, 3)),
    "resnet50": (Bottleneck, (3, 4, 6, 3)),
    "resnet101": (Bottleneck, (3, 4, 23, 3)),
}


class ResNet(nn.Module):
    """The body of a ResNet: images [B, 3, H, W] to C3, C4, C5 of strides 8, 16, 32, or from a finer
    level on: with `finest_level=2` to C2, of stride 4, too.

    `width` is the number of channels of the stem: 64 in the paper; less makes every layer narrower
    in proportion. `norm` is "batch", "frozen" (see FrozenBatchNorm) or "group". `stride_in` is the
    convolution of a bottleneck that has the stride, "3x3" or "1x1"; ValueError for the latter in a
    variant without bottlenecks.
    """

    layer1: nn.Sequential
    layer2: nn.Sequential
    layer3: nn.Sequential
    layer4: nn.Sequential

    def __init__(
        self,
        variant: str = "resnet50",
        norm: str = "batch",
        width: int = 64,
        stride_in: str = "3x3",
        finest_level: int = 3,
    ) -> None:
        super().__init__()
        self.finest_level: int = finest_level
        kind, depths = VARIANTS[variant]
        block: Callable[..., BasicBlock | Bottleneck] = kind
        if kind is Bottleneck:
            block = partial(kind, stride_in=stride_in)
        elif stride_in != "3x3":
            raise ValueError(f"stride_in: {variant} has no 1x1 convolution to put the stride in")
        norm_layer = NORMS[norm]
        self.conv1: nn.Conv2d = nn.Conv2d(3, width, 7, stride=2, padding=3, bias=False)
        self.bn1: nn.Module = norm_layer(width)

        channels = width
        stages: list[nn.Sequential] = []
        for i, depth in enumerate(depths):
            planes = width * 2**i
            blocks: list[nn.Module] = []
            for j in range(depth):
                stride = 2 if i > 0 and j == 0 else 1
                outputs = planes * kind.expansion
                shortcut = None
                if stride > 1 or channels != outputs:
                    shortcut = nn.Sequential(
                        _conv(channels, outputs, 1, stride), norm_layer(outputs)
                    )
                blocks.append(block(channels, planes, stride, shortcut, norm_layer))
                channels = outputs
            stages.append(nn.Sequential(*blocks))
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        self.out_channels: tuple[int, ...] = tuple(
            channels // 2 ** (5 - level) for level in range(finest_level, 6)
        )

        for module in self.modules():
            if isinstance(module, nn.Conv2d):  # He et al. 2015, "Delving Deep into Rectifiers"
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        x = F.relu(self.bn1(self.conv1(x)), inplace=True)
        c2 = self.layer1(F.max_pool2d(x, 3, stride=2, padding=1))
        c3 = self.layer2(c2)
        c4 = self.layer3(c3)
        return (c2, c3, c4, self.layer4(c4))[self.finest_level - 2 :]
