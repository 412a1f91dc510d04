"""RetinaNets of detectron2 and mmdetection in plain torch: their parameter names and conventions.

Small, with random weights. Each is called with an RGB image [3, H, W] of values up to 255, H and W
multiples of 32, as their data pipelines hand it over before normalisation, and gives scores [N, K]
and boxes [N, 4] of all anchors, levels in order, before any threshold. Written from the two
packages' sources. `MMDetection`, at full width, was compared with mmdetection 3.3.0's own modules:
names in order, maps, anchors and decoded boxes are the same, to the bit; detectron2, which has no
wheel to compare with, was read.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

DEPTHS = (3, 4, 6, 3)  # ResNet-50
STRIDES = (8, 16, 32, 64, 128)
RATIOS = (0.5, 1.0, 2.0)
RGB_MEAN, RGB_STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)


class FrozenNorm(nn.Module):
    """detectron2's: four buffers and no counter."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        for name, value in (("weight", 1), ("bias", 0), ("running_mean", 0), ("running_var", 1)):
            self.register_buffer(name, torch.full((channels,), float(value)))

    def forward(self, x: Tensor) -> Tensor:
        return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias)


class NormedConv(nn.Conv2d):
    """detectron2's Conv2d: the norm is its child."""

    def __init__(self, inputs: int, outputs: int, size: int, stride: int = 1) -> None:
        super().__init__(inputs, outputs, size, stride, size // 2, bias=False)
        self.norm = FrozenNorm(outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(super().forward(x))


class Detectron2Block(nn.Module):
    def __init__(self, inputs: int, planes: int, stride: int, caffe: bool) -> None:
        super().__init__()
        first, second = (stride, 1) if caffe else (1, stride)
        self.shortcut = NormedConv(inputs, 4 * planes, 1, stride) if inputs != 4 * planes else None
        self.conv1 = NormedConv(inputs, planes, 1, first)
        self.conv2 = NormedConv(planes, planes, 3, second)
        self.conv3 = NormedConv(planes, 4 * planes, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv3(F.relu(self.conv2(F.relu(self.conv1(x)))))
        return F.relu(y + (x if self.shortcut is None else self.shortcut(x)))


class MMBlock(nn.Module):
    def __init__(self, inputs: int, planes: int, stride: int, caffe: bool) -> None:
        super().__init__()
        first, second = (stride, 1) if caffe else (1, stride)
        self.conv1, self.bn1 = conv(inputs, planes, 1, first), nn.BatchNorm2d(planes)
        self.conv2, self.bn2 = conv(planes, planes, 3, second), nn.BatchNorm2d(planes)
        self.conv3, self.bn3 = conv(planes, 4 * planes, 1), nn.BatchNorm2d(4 * planes)
        self.downsample = None
        if inputs != 4 * planes:
            self.downsample = nn.Sequential(
                conv(inputs, 4 * planes, 1, stride), nn.BatchNorm2d(4 * planes)
            )

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn3(self.conv3(F.relu(self.bn2(self.conv2(y)))))
        return F.relu(y + (x if self.downsample is None else self.downsample(x)))


def conv(inputs: int, outputs: int, size: int, stride: int = 1, bias: bool = False) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, size, stride, size // 2, bias=bias)


def stages(block: type[nn.Module], width: int, caffe: bool) -> list[nn.Sequential]:
    made, inputs = [], width
    for i, depth in enumerate(DEPTHS):
        blocks = []
        for j in range(depth):
            stride = 2 if i > 0 and j == 0 else 1
            blocks.append(block(inputs, width * 2**i, stride, caffe))
            inputs = 4 * width * 2**i
        made.append(nn.Sequential(*blocks))
    return made


class Named(nn.Module):
    """Modules under given names."""

    def __init__(self, **modules: nn.Module) -> None:
        super().__init__()
        for name, module in modules.items():
            self.add_module(name, module)


class Detectron2(nn.Module):
    """`RetinaNet_R_50_FPN` of the model zoo; caffe: its "MSRA" body, else torchvision's, in RGB."""

    def __init__(
        self, classes: int, caffe: bool = True, width: int = 4, channels: int = 16, convs: int = 2
    ) -> None:
        super().__init__()
        mean, std = (RGB_MEAN[::-1], (1.0, 1.0, 1.0)) if caffe else (RGB_MEAN, RGB_STD)
        self.caffe = caffe
        self.register_buffer("pixel_mean", torch.tensor(mean)[:, None, None])
        self.register_buffer("pixel_std", torch.tensor(std)[:, None, None])
        res = {f"res{i + 2}": s for i, s in enumerate(stages(Detectron2Block, width, caffe))}
        bottom_up = Named(stem=Named(conv1=NormedConv(3, width, 7, 2)), **res)
        body = [8 * width, 16 * width, 32 * width]  # channels of res3, res4, res5
        lateral = {
            f"fpn_lateral{i + 3}": conv(c, channels, 1, bias=True) for i, c in enumerate(body)
        }
        output = {f"fpn_output{i}": conv(channels, channels, 3, bias=True) for i in (3, 4, 5)}
        top = Named(
            p6=conv(body[-1], channels, 3, 2, bias=True),
            p7=conv(channels, channels, 3, 2, bias=True),
        )
        self.backbone = Named(bottom_up=bottom_up, **lateral, **output, top_block=top)

        def subnet() -> nn.Sequential:
            layers = [(conv(channels, channels, 3, bias=True), nn.ReLU()) for _ in range(convs)]
            return nn.Sequential(*(part for layer in layers for part in layer))

        self.head = Named(
            cls_subnet=subnet(),
            bbox_subnet=subnet(),
            cls_score=conv(channels, 9 * classes, 3, bias=True),
            bbox_pred=conv(channels, 36, 3, bias=True),
        )
        cells = nn.Module()
        for i, stride in enumerate(STRIDES):
            cells.register_buffer(str(i), self.cell_anchors(4 * stride))
        self.anchor_generator = Named(cell_anchors=cells)

    @staticmethod
    def cell_anchors(size: float) -> Tensor:
        boxes = []
        for octave in (size, size * 2 ** (1 / 3), size * 2 ** (2 / 3)):
            for ratio in RATIOS:
                w = math.sqrt(octave**2 / ratio)
                h = ratio * w
                boxes.append([-w / 2, -h / 2, w / 2, h / 2])
        return torch.tensor(boxes)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        x = image.flip(0) if self.caffe else image
        x = ((x - self.pixel_mean) / self.pixel_std)[None]
        part = self.backbone
        x = F.max_pool2d(F.relu(part.bottom_up.stem.conv1(x)), 3, 2, 1)
        c3 = part.bottom_up.res3(part.bottom_up.res2(x))
        c4 = part.bottom_up.res4(c3)
        c5 = part.bottom_up.res5(c4)
        m5 = part.fpn_lateral5(c5)
        m4 = part.fpn_lateral4(c4) + F.interpolate(m5, scale_factor=2.0, mode="nearest")
        m3 = part.fpn_lateral3(c3) + F.interpolate(m4, scale_factor=2.0, mode="nearest")
        p6 = part.top_block.p6(c5)
        levels = [part.fpn_output3(m3), part.fpn_output4(m4), part.fpn_output5(m5), p6]
        levels.append(part.top_block.p7(F.relu(p6)))
        logits = [self.head.cls_score(self.head.cls_subnet(level)) for level in levels]
        deltas = [self.head.bbox_pred(self.head.bbox_subnet(level)) for level in levels]
        cells = [getattr(self.anchor_generator.cell_anchors, str(i)) for i in range(5)]
        d, anchors = by_anchor(deltas, 4), shifted(cells, levels)
        d = torch.cat([d[:, :2], d[:, 2:].clamp(max=math.log(1000.0 / 16))], 1)
        return by_anchor(logits, logits[0].shape[1] // 9).sigmoid(), decoded(d, anchors)


class MMDetection(nn.Module):
    """`retinanet_r50_fpn`; caffe: `retinanet_r50-caffe_fpn`; group: a head with GroupNorm."""

    def __init__(
        self,
        classes: int,
        caffe: bool = False,
        width: int = 4,
        channels: int = 16,
        convs: int = 2,
        group: bool = False,
    ) -> None:
        super().__init__()
        self.caffe = caffe
        layers = {f"layer{i + 1}": s for i, s in enumerate(stages(MMBlock, width, caffe))}
        self.backbone = Named(conv1=conv(3, width, 7, 2), bn1=nn.BatchNorm2d(width), **layers)
        body = [8 * width, 16 * width, 32 * width]

        def module(inputs: int, size: int, stride: int = 1) -> Named:
            return Named(conv=conv(inputs, channels, size, stride, bias=True))

        fpn = [module(channels, 3) for _ in body]
        fpn += [module(body[-1], 3, 2), module(channels, 3, 2)]
        self.neck = Named(
            lateral_convs=nn.ModuleList(module(c, 1) for c in body), fpn_convs=nn.ModuleList(fpn)
        )

        def tower() -> nn.ModuleList:
            if not group:
                return nn.ModuleList(module(channels, 3) for _ in range(convs))
            return nn.ModuleList(
                Named(conv=conv(channels, channels, 3), gn=nn.GroupNorm(channels // 2, channels))
                for _ in range(convs)
            )

        self.bbox_head = Named(
            cls_convs=tower(),
            reg_convs=tower(),
            retina_cls=conv(channels, 9 * classes, 3, bias=True),
            retina_reg=conv(channels, 36, 3, bias=True),
        )

    @staticmethod
    def cell_anchors(stride: int) -> Tensor:
        scales = torch.tensor([4 * 2 ** (i / 3) for i in range(3)])
        heights = torch.tensor(RATIOS).sqrt()
        w = (stride * (1 / heights)[:, None] * scales[None]).flatten()
        h = (stride * heights[:, None] * scales[None]).flatten()
        return torch.stack([-0.5 * w, -0.5 * h, 0.5 * w, 0.5 * h], 1)

    def maps(self, x: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Normalised images to raw maps."""
        body, neck, head = self.backbone, self.neck, self.bbox_head
        x = F.max_pool2d(F.relu(body.bn1(body.conv1(x))), 3, 2, 1)
        c3 = body.layer2(body.layer1(x))
        c4 = body.layer3(c3)
        c5 = body.layer4(c4)
        m3, m4, m5 = (m.conv(c) for m, c in zip(neck.lateral_convs, (c3, c4, c5), strict=True))
        m4 = m4 + F.interpolate(m5, size=m4.shape[2:], mode="nearest")
        m3 = m3 + F.interpolate(m4, size=m3.shape[2:], mode="nearest")
        levels = [m.conv(x) for m, x in zip(neck.fpn_convs[:4], (m3, m4, m5, c5), strict=True)]
        levels.append(neck.fpn_convs[4].conv(levels[-1]))

        def through(tower: nn.ModuleList, x: Tensor) -> Tensor:
            for layer in tower:
                x = layer.conv(x)
                x = F.relu(layer.gn(x) if hasattr(layer, "gn") else x)
            return x

        logits = [head.retina_cls(through(head.cls_convs, level)) for level in levels]
        deltas = [head.retina_reg(through(head.reg_convs, level)) for level in levels]
        return logits, deltas

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        x = image.flip(0) if self.caffe else image
        mean, std = (RGB_MEAN[::-1], (1.0, 1.0, 1.0)) if self.caffe else (RGB_MEAN, RGB_STD)
        x = (x - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
        logits, deltas = self.maps(x[None])
        d, anchors = by_anchor(deltas, 4), shifted(map(self.cell_anchors, STRIDES), deltas)
        limit = abs(math.log(16 / 1000))
        d = torch.cat([d[:, :2], d[:, 2:].clamp(-limit, limit)], 1)
        return by_anchor(logits, logits[0].shape[1] // 9).sigmoid(), decoded(d, anchors)


def by_anchor(maps: list[Tensor], values: int) -> Tensor:
    """Maps [1, A*values, H, W] of all levels to [N, values]."""
    rows = [m.view(-1, values, *m.shape[2:]).permute(2, 3, 0, 1).reshape(-1, values) for m in maps]
    return torch.cat(rows)


def shifted(cells, maps: list[Tensor]) -> Tensor:
    """The cell anchors of each level at the corner of each of its cells."""
    boxes = []
    for cell, level, stride in zip(cells, maps, STRIDES, strict=True):
        y, x = (torch.arange(side) * float(stride) for side in level.shape[2:])
        y, x = torch.meshgrid(y, x, indexing="ij")
        boxes.append((torch.stack([x, y, x, y], -1)[:, :, None] + cell).view(-1, 4))
    return torch.cat(boxes)


def decoded(deltas: Tensor, anchors: Tensor) -> Tensor:
    size = anchors[:, 2:] - anchors[:, :2]
    centre = (anchors[:, 2:] + anchors[:, :2]) / 2 + deltas[:, :2] * size
    half = size * deltas[:, 2:].exp() / 2
    return torch.cat([centre - half, centre + half], 1)


@torch.no_grad()
def randomised(model: nn.Module) -> nn.Module:
    """Random weights under which signals of both signs reach every layer, in eval mode."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
            if module.bias is not None:
                nn.init.normal_(module.bias, std=0.1)
        if isinstance(module, FrozenNorm | nn.BatchNorm2d):
            for values, low, high in (
                (module.weight, 0.3, 0.9), (module.bias, -0.3, 0.3),
                (module.running_mean, -0.3, 0.3), (module.running_var, 0.5, 2.0),
            ):  # fmt: skip
                values.uniform_(low, high)
    return model.eval()
