"""detectron2's RetinaNets, as in its model zoo (RetinaNet_R_50_FPN_1x and its like).

P6 comes from C5. Images are BGR of up to 255 with a standard deviation of 1, and bottlenecks have
the stride in the 1x1 convolution, as in the ResNets of "MSRA" that they start from; a state dict
that holds `pixel_mean` and `pixel_std` says itself what it expects. detectron2 clips boxes to the
image after NMS, this package before; boxes beyond the border may suppress others.
"""

from __future__ import annotations

import re
from typing import Any

from ..errors import UserError
from ..ops import AnchorGrid
from .layouts import NORM, STYLES, Layout, Preprocessing
from .read import Source

STRIDES = (8, 16, 32, 64, 128)
_STEM, _RES = r"backbone\.bottom_up\.stem\.conv1", r"backbone\.bottom_up\.res([2-5])\.(\d+)"
_NORM = rf"norm\.({NORM})"
_SUBNETS = {"cls": "classification_head", "bbox": "regression_head"}


def _block(match: re.Match[str]) -> str:
    stage, number, rest = int(match[1]) - 1, match[2], match[3]
    rest = re.sub(r"conv(\d)\.norm", r"bn\1", rest)
    rest = re.sub(r"shortcut\.norm", "downsample.1", rest)
    rest = re.sub(r"shortcut", "downsample.0", rest)
    return f"backbone.body.layer{stage}.{number}.{rest}"


def _lateral(match: re.Match[str]) -> str:
    blocks = {"lateral": "inner_blocks", "output": "layer_blocks"}[match[1]]
    return f"backbone.fpn.{blocks}.{int(match[2]) - 3}.0.{match[3]}"


def _subnet(match: re.Match[str]) -> str:
    return f"head.{_SUBNETS[match[1]]}.conv.{int(match[2]) // 2}.0.{match[3]}"


def _preprocessing(source: Source, style: str | None) -> Preprocessing:
    mean, std = (source.weights.get(f"pixel_{name}") for name in ("mean", "std"))
    if style is not None or mean is None or std is None:
        return STYLES[style or "caffe"]
    means, stds = mean.flatten().tolist(), std.flatten().tolist()
    bgr = means[0] < means[-1]  # of natural images red has the largest mean
    order = slice(None, None, -1 if bgr else 1)
    stride_in = "1x1" if stds == [1.0] * len(stds) else "3x3"
    return Preprocessing(tuple(means[order]), tuple(stds[order]), bgr, stride_in)


def _settings(source: Source) -> dict[str, Any]:
    grid = AnchorGrid.detectron2()
    names = [f"anchor_generator.cell_anchors.{i}" for i in range(len(STRIDES))]
    if all(name in source.weights for name in names):
        try:
            cells = (source.weights[name].float().tolist() for name in names)
            levels = tuple(tuple(map(tuple, level)) for level in cells)
            grid = AnchorGrid(levels, STRIDES)
        except (TypeError, ValueError) as error:
            raise UserError(
                f"{source.path}: anchor_generator.cell_anchors: expected 5 levels of as many boxes "
                f"each, as the same head serves all ({error})"
            ) from error
    return {
        "anchor_grid": grid,
        "p6_from": "c5",
        "box_loss": "l1",
        "detections_per_img": 100,
    }


LAYOUT = Layout(
    "detectron2",
    (
        (rf"{_STEM}\.weight", "backbone.body.conv1.weight"),
        (rf"{_STEM}\.{_NORM}", r"backbone.body.bn1.\1"),
        (rf"{_RES}\.((?:conv[123]|shortcut)\.(?:weight|{_NORM}))", _block),
        (r"backbone\.fpn_(lateral|output)([345])\.(weight|bias)", _lateral),
        (r"backbone\.top_block\.(p[67]\.(?:weight|bias))", r"backbone.fpn.extra_blocks.\1"),
        (r"head\.(cls|bbox)_subnet\.(\d*[02468])\.(weight|bias)", _subnet),
        (r"head\.cls_score\.(weight|bias)", r"head.classification_head.cls_logits.\1"),
        (r"head\.bbox_pred\.(weight|bias)", r"head.regression_head.bbox_reg.\1"),
        (r"pixel_(?:mean|std)|anchor_generator\.cell_anchors\.\d", None),
    ),
    _preprocessing,
    _settings,
)
