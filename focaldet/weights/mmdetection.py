"""mmdetection's RetinaNets, versions 2 and 3 (retinanet_r50_fpn_1x_coco and its like).

P6 comes from C5, and no ReLU stands before P7. The style of the ResNet is "pytorch" unless the
configuration in the file says "caffe". Its box coder clamps the logarithms of width and height from
below too, at -log(1000 / 16); this package only from above.
"""

from __future__ import annotations

import re
from typing import Any

from ..errors import UserError
from ..ops import AnchorGrid
from .layouts import BODY, STYLES, Layout, Preprocessing
from .read import Source

_CONVS = {"cls": "classification_head", "reg": "regression_head"}


def _fpn(match: re.Match[str]) -> str:
    number = int(match[1])
    block = f"layer_blocks.{number}.0" if number < 3 else f"extra_blocks.p{number + 3}"
    return f"backbone.fpn.{block}.{match[2]}"


def _tower(match: re.Match[str]) -> str:
    layer = {"conv": 0, "gn": 1}[match[3]]
    return f"head.{_CONVS[match[1]]}.conv.{match[2]}.{layer}.{match[4]}"


def _preprocessing(source: Source, style: str | None) -> Preprocessing:
    caffe = re.search(r"""style\s*=\s*['"]caffe['"]""", source.config)
    usual = STYLES[style or ("caffe" if caffe else "pytorch")]
    mean, std = (source.weights.get(f"data_preprocessor.{name}") for name in ("mean", "std"))
    if style is not None or mean is None or std is None:
        return usual
    order = slice(None, None, -1 if usual.bgr else 1)  # they lie as the network takes them
    means, stds = mean.flatten().tolist()[order], std.flatten().tolist()[order]
    return usual._replace(mean=tuple(means), std=tuple(stds))


# What the configuration in a file may say otherwise, and then the anchors are others.
_ANCHORS = {
    "octave_base_scale": r"4",
    "scales_per_octave": r"3",
    "ratios": r"\[0\.5,\s*1(?:\.0)?,\s*2(?:\.0)?\]",
    "strides": r"\[8,\s*16,\s*32,\s*64,\s*128\]",
}


def _settings(source: Source) -> dict[str, Any]:
    for name, usual in _ANCHORS.items():
        for said in re.findall(rf"\b{name}\s*=\s*(\[[^\]]*\]|[^,\s)]+)", source.config):
            if name != "strides" or said.count(",") == 4:  # those of a backbone are four
                if re.fullmatch(usual, said) is None:
                    raise UserError(
                        f"{source.path}: its anchors have {name}={said}, other than mmdetection's "
                        "RetinaNets; in Python, RetinaNet(anchor_grid=...) takes them"
                    )
    return {
        "anchor_grid": AnchorGrid.mmdetection(),
        "p6_from": "c5",
        "p7_relu": False,
        "low_quality": "mmdet",
        "box_loss": "l1",
        "detections_per_img": 100,
    }


LAYOUT = Layout(
    "mmdetection",
    (
        (rf"backbone\.({BODY})", r"backbone.body.\1"),
        (
            r"neck\.lateral_convs\.([0-2])\.conv\.(weight|bias)",
            r"backbone.fpn.inner_blocks.\1.0.\2",
        ),
        (r"neck\.fpn_convs\.([0-4])\.conv\.(weight|bias)", _fpn),
        (r"bbox_head\.(cls|reg)_convs\.(\d+)\.(conv|gn)\.(weight|bias)", _tower),
        (r"bbox_head\.retina_cls\.(weight|bias)", r"head.classification_head.cls_logits.\1"),
        (r"bbox_head\.retina_reg\.(weight|bias)", r"head.regression_head.bbox_reg.\1"),
        (r"data_preprocessor\.(?:mean|std)", None),
    ),
    _preprocessing,
    _settings,
)
