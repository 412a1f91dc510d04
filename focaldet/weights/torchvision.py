"""torchvision's RetinaNets, whose names and conventions are those of this package.

Its first release named layers otherwise, and so do the weights that it publishes for v1: no `.0`
after `inner_blocks.0`, and `conv.2` for what is `conv.1.0` now.
"""

from __future__ import annotations

from typing import Any

from ..models import V2
from ..ops import AnchorGrid
from .layouts import BODY, Layout, by_style
from .read import Source

_HEAD = r"(head\.(?:classification|regression)_head)"


def _settings(source: Source) -> dict[str, Any]:
    second = "head.classification_head.conv.0.1.weight" in source.weights
    return {
        "anchor_grid": AnchorGrid.torchvision(),
        "normalizer": "image",
        **(V2 if second else {"p6_from": "p5", "box_loss": "l1"}),
    }


LAYOUT = Layout(
    "torchvision",
    (
        (rf"(backbone\.body\.{BODY})", r"\1"),
        (r"(backbone\.fpn\.(?:inner|layer)_blocks\.[0-2])(?:\.0)?\.(weight|bias)", r"\1.0.\2"),
        (r"(backbone\.fpn\.extra_blocks\.p[67]\.(?:weight|bias))", r"\1"),
        (rf"({_HEAD}\.conv\.\d+\.[01]\.(?:weight|bias))", r"\1"),
        (
            rf"{_HEAD}\.conv\.(\d+)\.(weight|bias)",
            lambda m: f"{m[1]}.conv.{int(m[2]) // 2}.0.{m[3]}",
        ),
        (rf"({_HEAD}\.(?:cls_logits|bbox_reg)\.(?:weight|bias))", r"\1"),
    ),
    by_style("pytorch"),
    _settings,
)
