"""torchvision's RetinaNet from the head's raw maps: one operator for the losses, one for the
detections. The head no longer permutes and concatenates its maps, and anchors are never made."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import detection
from torchvision.models.detection import retinanet
from torchvision.models.detection._utils import BoxCoder, Matcher
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList

from ...ops import AnchorGrid, Anchors, retinanet_loss, retinanet_postprocess
from ...ops.choices import BOX_LOSSES
from ._plan import Plan, Step, overridden
from ._report import Replaced
from ._swap import original

Maps = Mapping[str, list[Tensor]]  # "cls_logits" and "bbox_regression": raw maps by level
Outputs = dict[str, Tensor] | list[dict[str, Tensor]]  # losses or detections


# What takes the place of torchvision's methods ---------------------------------------------------


class RawClassification:
    """The classification head, up to its raw maps [B, A*K, H, W] by level."""

    conv: nn.Sequential
    cls_logits: nn.Conv2d

    def forward(self, x: Sequence[Tensor]) -> list[Tensor]:
        return [self.cls_logits(self.conv(level)) for level in x]


class RawRegression:
    """The regression head, up to its raw maps [B, A*4, H, W] by level."""

    conv: nn.Sequential
    bbox_reg: nn.Conv2d

    def forward(self, x: Sequence[Tensor]) -> list[Tensor]:
        return [self.bbox_reg(self.conv(level)) for level in x]


class GridAnchors:
    """The anchor generator without its tensors."""

    _focaldet_grid: AnchorGrid

    def forward(self, image_list: ImageList, feature_maps: Sequence[Tensor]) -> Anchors:
        """The anchors of every image of the batch."""
        sizes = [(level.shape[-2], level.shape[-1]) for level in feature_maps]
        height, width = image_list.tensors.shape[-2:]
        return self._focaldet_grid.at(sizes, (height, width))


class FusedRetinaNet:
    """A torchvision RetinaNet, called as ever, on `retinanet_loss` and `retinanet_postprocess`.

    The settings (thresholds, numbers of candidates, the type of the box loss) are read from
    torchvision's attributes in every call; only the cell anchors are read once, by `accelerate`.
    """

    # torchvision's, which has no types
    training: bool
    transform: Any
    backbone: Any
    head: Any
    anchor_generator: Any
    proposal_matcher: Any
    eager_outputs: Callable[[dict[str, Tensor], list[dict[str, Tensor]]], Outputs]
    score_thresh: float
    nms_thresh: float
    topk_candidates: int
    detections_per_img: int | None

    def forward(
        self, images: Sequence[Tensor], targets: Sequence[dict[str, Tensor]] | None = None
    ) -> Outputs:
        if self.training:
            _check_targets(targets)
        sizes = [(image.shape[-2], image.shape[-1]) for image in images]
        batch, resized = self.transform(images, targets)
        if resized is not None:
            _check_extents(resized)
        features = self.backbone(batch.tensors)
        features = [features] if isinstance(features, Tensor) else list(features.values())
        maps = self.head(features)
        anchors = self.anchor_generator(batch, features)
        _check_parts(maps, anchors)
        if self.training:
            return self.eager_outputs(self.compute_loss(resized, maps, anchors), [])
        found = self.postprocess_detections(maps, anchors, batch.image_sizes)
        return self.eager_outputs({}, self.transform.postprocess(found, batch.image_sizes, sizes))

    def compute_loss(
        self, targets: Sequence[dict[str, Tensor]], head_outputs: Maps, anchors: Anchors
    ) -> dict[str, Tensor]:
        counts = [len(target["boxes"]) for target in targets]
        device = head_outputs["cls_logits"][0].device
        matcher, box_loss = self.proposal_matcher, self.head.regression_head._loss_type
        losses = retinanet_loss(
            head_outputs["cls_logits"],
            head_outputs["bbox_regression"],
            anchors,
            torch.cat([target["boxes"] for target in targets]).detach(),
            torch.cat([target["labels"] for target in targets]).long(),
            F.pad(torch.tensor(counts).cumsum(0), (1, 0)).to(device),
            fg_iou=matcher.high_threshold,
            bg_iou=matcher.low_threshold,
            low_quality="torchvision" if matcher.allow_low_quality_matches else "none",
            box_loss=box_loss,
            beta=1.0,  # torchvision's, of smooth_l1
            normalizer="image",
        )
        return {"classification": losses[0], "bbox_regression": losses[1]}

    def postprocess_detections(
        self, head_outputs: Maps, anchors: Anchors, image_shapes: Sequence[tuple[int, int]]
    ) -> list[dict[str, Tensor]]:
        maps = head_outputs["cls_logits"]
        # Ours pads to max_detections, and torchvision's may be None, or a number for "all".
        most = sum(min(self.topk_candidates, math.prod(level.shape[1:])) for level in maps)
        limit = self.detections_per_img
        boxes, scores, labels, counts = retinanet_postprocess(
            maps,
            head_outputs["bbox_regression"],
            anchors,
            torch.tensor(image_shapes).to(maps[0].device),
            score_threshold=self.score_thresh,
            topk=self.topk_candidates,
            iou_threshold=min(self.nms_thresh, 1.0),  # more than 1 keeps all, as 1 does
            max_detections=most if limit is None or limit > most else limit,
        )
        return [
            {"boxes": boxes[i, :n], "scores": scores[i, :n], "labels": labels[i, :n]}
            for i, n in enumerate(counts.tolist())
        ]


def _check_targets(targets: Sequence[dict[str, Tensor]] | None) -> None:
    """Raises AssertionError, as torchvision does."""
    torch._assert(targets is not None, "targets: expected one per image in training mode, got None")
    for i, target in enumerate(targets or ()):
        boxes = target["boxes"]
        good = isinstance(boxes, Tensor) and boxes.dim() == 2 and boxes.shape[1] == 4
        torch._assert(good, f"targets[{i}]['boxes']: expected a tensor of shape [N, 4]")


def _check_parts(maps: Maps, anchors: object) -> None:
    """Raises ValueError for the outputs of a part that was exchanged for one of torchvision's."""
    accelerated = {
        "anchor_generator": isinstance(anchors, Anchors),
        "head.classification_head": not isinstance(maps["cls_logits"], Tensor),
        "head.regression_head": not isinstance(maps["bbox_regression"], Tensor),
    }
    if exchanged := [name for name, good in accelerated.items() if not good]:
        raise ValueError(
            f"{', '.join(exchanged)}: expected as when the model was accelerated, got another, "
            "which is not; `accelerate` the model again"
        )


def _check_extents(targets: Sequence[dict[str, Tensor]]) -> None:
    """Raises AssertionError, as torchvision does."""
    for i, target in enumerate(targets):
        boxes = target["boxes"]
        empty = (boxes[:, 2:] <= boxes[:, :2]).any(dim=1)
        if empty.any():
            row = boxes[int(empty.int().argmax())].tolist()
            torch._assert(
                False, f"targets[{i}]['boxes']: expected positive width and height, got {row}"
            )


# What may be replaced ----------------------------------------------------------------------------


LOSS = Replaced("compute_loss", "retinanet_loss", "the IoU matrix, dense targets, a second pass")
DETECTIONS = Replaced(
    "postprocess_detections", "retinanet_postprocess", "scores and copies of all maps"
)
ANCHORS = Replaced("anchor_generator", "AnchorGrid", "the anchors, and a copy per image")
RAW_CLASSIFICATION, RAW_REGRESSION = (
    Replaced(f"head.{name}", "raw maps", "permuting and concatenating, both ways")
    for name in ("classification_head", "regression_head")
)
# By path the class of each part, and the methods that ours stands for or takes as torchvision's.
_CALL = ("__call__", "forward")
_EXPECTED: dict[str, tuple[type, tuple[str, ...]]] = {
    "": (detection.RetinaNet, (*_CALL, "compute_loss", "postprocess_detections")),
    "head": (retinanet.RetinaNetHead, (*_CALL, "compute_loss")),
    "head.classification_head": (
        retinanet.RetinaNetClassificationHead,
        (*_CALL, "compute_loss"),
    ),
    "head.regression_head": (retinanet.RetinaNetRegressionHead, (*_CALL, "compute_loss")),
    "head.regression_head.box_coder": (BoxCoder, ("encode_single", "decode_single")),
    "box_coder": (BoxCoder, ("decode_single",)),
    "anchor_generator": (AnchorGenerator, (*_CALL, "grid_anchors")),
    "proposal_matcher": (Matcher, ("__call__", "set_low_quality_matches_")),
}


def plan(model: Any) -> Plan:
    """Raises ValueError if the model has a part of its own where ours would take over."""
    if obstacles := list(_obstacles(model)):
        raise ValueError(
            "accelerate: this RetinaNet does something of its own where focaldet would take over: "
            f"{'; '.join(obstacles)}. Nothing was changed. `patch_ops()` speeds up the operators "
            "that its own code calls."
        )
    cells = model.anchor_generator.cell_anchors
    grid = AnchorGrid(tuple(tuple(map(tuple, level.tolist())) for level in cells), "image")
    steps = [
        Step(model, (FusedRetinaNet,), (LOSS, DETECTIONS)),
        Step(model.anchor_generator, (GridAnchors,), (ANCHORS,), {"grid": grid}),
        Step(model.head.classification_head, (RawClassification,), (RAW_CLASSIFICATION,)),
        Step(model.head.regression_head, (RawRegression,), (RAW_REGRESSION,)),
    ]
    return Plan(steps, [])


def _obstacles(model: nn.Module) -> Iterator[str]:
    """What the model has of its own."""
    parts: dict[str, Any] = {}
    for where, (base, methods) in _EXPECTED.items():
        owner, _, name = where.rpartition(".")
        part = parts[where] = getattr(parts.get(owner, model), name, None) if where else model
        if not issubclass(original(part), base):
            yield f"{where} is a {original(part).__name__}, not torchvision's {base.__name__}"
            return  # nothing is known of what it consists of
        for method in overridden(part, base, methods):
            yield f"{where or original(part).__name__} has its own {method}"
    for where in ("box_coder", "head.regression_head.box_coder"):
        coder = parts[where]
        if tuple(coder.weights) != (1, 1, 1, 1) or coder.bbox_xform_clip != math.log(1000 / 16):
            yield f"{where} has weights {coder.weights}, clip {coder.bbox_xform_clip:.4g}"
    loss_type = parts["head.regression_head"]._loss_type
    if loss_type not in BOX_LOSSES:
        yield f"head.regression_head has the loss type {loss_type!r}"
    counts = {len(level) for level in parts["anchor_generator"].cell_anchors}
    if len(counts) != 1:
        yield f"anchor_generator has {sorted(counts)} anchors a position, not as many on each level"
    ignored = parts["head.classification_head"].BETWEEN_THRESHOLDS
    if ignored != Matcher.BETWEEN_THRESHOLDS:
        yield f"head.classification_head ignores the match {ignored}"
