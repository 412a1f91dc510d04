"""The arguments of `RetinaNet` that the shapes in a state dict tell, by this package's names."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ..models.resnet import VARIANTS, Bottleneck

_CLASSES, _BOXES = "head.classification_head.cls_logits", "head.regression_head.bbox_reg"


def variant_of(weights: Mapping[str, Tensor], prefix: str = "") -> str:
    """The ResNet whose blocks the names are, or the one that comes nearest."""
    pattern = re.compile(re.escape(prefix) + r"layer([1-4])\.(\d+)\.conv(\d)\.weight")
    found = [m for m in map(pattern.fullmatch, weights) if m]
    depths = [len({m[2] for m in found if m[1] == str(stage)}) for stage in range(1, 5)]
    bottleneck = any(m[3] == "3" for m in found)

    def distance(variant: str) -> tuple[bool, int]:
        block, known = VARIANTS[variant]
        apart = sum(abs(a - b) for a, b in zip(known, depths, strict=True))
        return (block is Bottleneck) != bottleneck, apart

    return min(VARIANTS, key=distance)


def architecture_of(weights: Mapping[str, Tensor], settings: dict[str, Any]) -> dict[str, Any]:
    """Arguments of the detector, among them those of its layout, `settings`.

    What a name that is missing would tell is taken from the default: whoever compares the names of
    that detector with the file's finds what is missing.
    """
    outputs = {part: _length(weights, part, 0) for part in (_CLASSES, _BOXES)}
    per_position = outputs[_BOXES] // 4
    fpn_channels = _length(weights, "backbone.fpn.layer_blocks.0.0", 256)
    layers = [re.fullmatch(r"head\..*\.conv\.(\d+)\.0\.weight", name) for name in weights]
    arguments: dict[str, Any] = {
        "num_classes": max(1, outputs[_CLASSES] // max(1, per_position)),
        "backbone": variant_of(weights, "backbone.body."),
        "norm": "batch" if any(n.endswith("num_batches_tracked") for n in weights) else "frozen",
        "width": _length(weights, "backbone.body.conv1", 64),
        "fpn_channels": fpn_channels,
        "head_depth": max((int(m[1]) + 1 for m in layers if m), default=4),
        "head_norm": ("group" if "head.classification_head.conv.0.1.weight" in weights else None),
    } | settings
    p6 = weights.get("backbone.fpn.extra_blocks.p6.weight")
    c5 = weights.get("backbone.fpn.inner_blocks.2.0.weight")
    if p6 is not None and c5 is not None and p6.dim() == c5.dim() == 4:
        if c5.shape[1] != fpn_channels:
            arguments["p6_from"] = "p5" if p6.shape[1] == fpn_channels else "c5"
    if VARIANTS[arguments["backbone"]][0] is not Bottleneck:
        arguments["stride_in"] = "3x3"  # a basic block begins with a 3x3, in every style
    return arguments


def _length(weights: Mapping[str, Tensor], name: str, default: int) -> int:
    weight = weights.get(f"{name}.weight")
    return default if weight is None or weight.numel() == 0 or weight.dim() == 0 else len(weight)
