"""The providers that are other packages: how each is called, and where it can be.

None of them is needed, and each is imported when its run is prepared. A function here gives those
of one operator, by name, that take the device and dtype at hand.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .case import Differentiable, Provider, Run
from .inputs import Setup

NAMES = ("detectron2", "mmcv", "apex", "ultralytics")
Providers = dict[str, Provider]


def available() -> tuple[str, ...]:
    """The peers that are installed."""
    return tuple(name for name in ("torchvision", *NAMES) if find_spec(name) is not None)


def one_hot(labels: Tensor, like: Tensor) -> Tensor:
    return F.one_hot(labels + 1, like.shape[1] + 1)[:, 1:].to(like.dtype)


def of_one(output: Callable[[], Tensor], leaf: Tensor) -> Differentiable:
    return Differentiable(lambda: (output(),), (leaf,))


# Losses: x has logits [n, K] and targets, int64 [n], of which -1 is background --------------------


def focal_loss(setup: Setup, classes: int) -> Providers:
    """From labels. mmcv and apex have them on CUDA alone, without bfloat16."""
    found: Providers = {"detectron2": detectron2_focal}
    if setup.device.type == "cuda" and setup.dtype != torch.bfloat16:
        found["mmcv"] = mmcv_focal
        if classes * setup.dtype.itemsize % 16 == 0:  # it reads 16 bytes at a time
            found["apex"] = apex_focal
    return found


def detectron2_focal(x: Any) -> Run:
    """What its RetinaNet calls: fvcore's, of one-hot targets, which it makes."""
    from fvcore.nn import sigmoid_focal_loss_jit

    def loss() -> Tensor:
        return sigmoid_focal_loss_jit(
            x.logits, one_hot(x.targets, x.logits), alpha=0.25, gamma=2.0, reduction="sum"
        )

    return of_one(loss, x.logits)


def mmcv_focal(x: Any) -> Run:
    """Its background is the label K."""
    from mmcv.ops import sigmoid_focal_loss

    labels = torch.where(x.targets < 0, x.logits.shape[1], x.targets)
    return of_one(lambda: sigmoid_focal_loss(x.logits, labels, 2.0, 0.25, None, "sum"), x.logits)


def apex_focal(x: Any) -> Run:
    """Its backward scales the gradient where it lies, here by 1."""
    from apex.contrib.focal_loss.focal_loss import focal_loss

    normalizer, classes = torch.ones(1, device=x.logits.device), x.logits.shape[1]
    return of_one(lambda: focal_loss(x.logits, x.targets, normalizer, classes, 0.25, 2.0), x.logits)


def softmax_focal_loss(setup: Setup) -> Providers:
    cuda = setup.device.type == "cuda" and setup.dtype != torch.bfloat16
    return {"mmcv": mmcv_softmax_focal} if cuda else {}


def mmcv_softmax_focal(x: Any) -> Run:
    from mmcv.ops import softmax_focal_loss

    return of_one(lambda: softmax_focal_loss(x.logits, x.targets, 2.0, 0.25, None, "sum"), x.logits)


# Suppression: x has boxes, scores and labels ------------------------------------------------------


def nms(setup: Setup, iou: float) -> Providers:
    """detectron2's is torchvision's own function. mmcv's reads float32."""

    def mmcv(x: Any) -> Run:
        from mmcv.ops import nms

        return lambda: nms(x.boxes, x.scores, iou)[1]

    def ultralytics(x: Any) -> Run:
        from ultralytics.utils.nms import TorchNMS

        return lambda: TorchNMS.nms(x.boxes, x.scores, iou)

    found: Providers = {"ultralytics": ultralytics}
    return found | ({"mmcv": mmcv} if setup.dtype == torch.float32 else {})


def batched_nms(setup: Setup, iou: float) -> Providers:
    def detectron2(x: Any) -> Run:
        from detectron2.layers import batched_nms

        return lambda: batched_nms(x.boxes, x.scores, x.labels, iou)

    def mmcv(x: Any) -> Run:
        from mmcv.ops import batched_nms

        settings = {"type": "nms", "iou_threshold": iou}
        return lambda: batched_nms(x.boxes, x.scores, x.labels, settings)[1]

    def ultralytics(x: Any) -> Run:
        from ultralytics.utils.nms import TorchNMS

        return lambda: TorchNMS.batched_nms(x.boxes, x.scores, x.labels, iou)

    found: Providers = {"detectron2": detectron2, "ultralytics": ultralytics}
    return found | ({"mmcv": mmcv} if setup.dtype == torch.float32 else {})


# Matching: x has the anchors' table and the truth -------------------------------------------------


def matching() -> Providers:
    return {"detectron2": detectron2_match}


def detectron2_match(x: Any) -> Run:
    """Rows and kinds (1 foreground, 0 background, -1 between), made one as ours are."""
    from detectron2.modeling.matcher import Matcher
    from detectron2.structures import Boxes, pairwise_iou

    matcher = Matcher([0.4, 0.5], [0, -1, 1], allow_low_quality_matches=True)
    anchors, images = Boxes(x.table), [Boxes(each["boxes"]) for each in x.truth.by_image()]

    def match(boxes: Any) -> Tensor:
        rows, kinds = matcher(pairwise_iou(boxes, anchors))
        return torch.where(kinds == 1, rows, torch.where(kinds == 0, -1, -2))

    return lambda: torch.stack([match(boxes) for boxes in images])


# Boxes: x has few, many and anchors, all [..., 4], and deltas -------------------------------------


def box_iou(setup: Setup) -> Providers:
    """mmcv's reads float32."""

    def detectron2(x: Any) -> Run:
        from detectron2.structures import Boxes, pairwise_iou

        few, anchors = Boxes(x.few), Boxes(x.anchors)
        return lambda: pairwise_iou(few, anchors)

    def mmcv(x: Any) -> Run:
        from mmcv.ops import bbox_overlaps

        return lambda: bbox_overlaps(x.few, x.anchors)

    def ultralytics(x: Any) -> Run:
        from ultralytics.utils.metrics import box_iou

        return lambda: box_iou(x.few, x.anchors)

    found: Providers = {"detectron2": detectron2, "ultralytics": ultralytics}
    return found | ({"mmcv": mmcv} if setup.dtype == torch.float32 else {})


def encoding() -> Providers:
    def detectron2(x: Any) -> Run:
        from detectron2.modeling.box_regression import Box2BoxTransform

        coder = Box2BoxTransform(weights=(1.0, 1.0, 1.0, 1.0))
        return lambda: coder.get_deltas(x.anchors, x.many)

    return {"detectron2": detectron2}


def decoding() -> Providers:
    def detectron2(x: Any) -> Run:
        from detectron2.modeling.box_regression import Box2BoxTransform

        coder = Box2BoxTransform(weights=(1.0, 1.0, 1.0, 1.0))
        return of_one(lambda: coder.apply_deltas(x.deltas, x.anchors), x.deltas)

    return {"detectron2": detectron2}
