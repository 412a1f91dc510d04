"""torchvision's RetinaNet from the head's raw maps: one operator for the losses, one for the
detections. The head no longer permutes and concatenates its maps, and anchors are never made."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import detection
from torchvision.models.detection import retinanet
from torchvision.models.detection._utils import BoxCoder, Matcher
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList

from ...ops import AnchorGrid, Anchors, retinanet_loss, retinanet_postprocess
from ...ops.retinanet_loss import BOX_LOSSES
from ._plan import Plan, Step, overridden
from ._report import Replaced
from ._swap import original

Maps = Mapping[str, list[Tensor]]  # "cls_logits" and "bbox_regression": raw maps by level


# What takes the place of torchvision's methods ---------------------------------------------------


class RawClassification:
    """The classification head, up to its raw maps [B, A*K, H, W] by level."""

    def forward(self, x: Sequence[Tensor]) -> list[Tensor]:
        return [self.cls_logits(self.conv(level)) for level in x]


class RawRegression:
    """The regression head, up to its raw maps [B, A*4, H, W] by level."""

    def forward(self, x: Sequence[Tensor]) -> list[Tensor]:
        return [self.bbox_reg(self.conv(level)) for level in x]


class GridAnchors:
    """The anchor generator without its tensors."""

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

    def forward(
        self, images: Sequence[Tensor], targets: Sequence[dict[str, Tensor]] | None = None
    ) -> dict[str, Tensor] | list[dict[str, Tensor]]:
        if self.training:
            _check_targets(targets)
        sizes = [(image.shape[-2], image.shape[-1]) for image in images]
        batch, targets = self.transform(images, targets)
        if targets is not None:
            _check_extents(targets)
        features = self.backbone(batch.tensors)
        features = [features] if isinstance(features, Tensor) else list(features.values())
        maps = self.head(features)
        anchors = self.anchor_generator(batch, features)
        if self.training:
            return self.eager_outputs(self.compute_loss(targets, maps, anchors), [])
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
        boxes, scores, labels, counts = retinanet_postprocess(
            maps,
            head_outputs["bbox_regression"],
            anchors,
            torch.tensor(image_shapes).to(maps[0].device),
            score_threshold=self.score_thresh,
            topk=self.topk_candidates,
            iou_threshold=self.nms_thresh,
            max_detections=self.detections_per_img,
        )
        return [
            {"boxes": boxes[i, :n], "scores": scores[i, :n], "labels": labels[i, :n]}
            for i, n in enumerate(counts.tolist())
        ]


def _check_targets(targets: Sequence[dict[str, Tensor]] | None) -> None:
    """Raises AssertionError, as torchvision does."""
    torch._assert(targets is not None, "targets: expected one per image in training mode, got None")
    for i, target in enumerate(targets):
        boxes = target["boxes"]
        good = isinstance(boxes, Tensor) and boxes.dim() == 2 and boxes.shape[1] == 4
        torch._assert(good, f"targets[{i}]['boxes']: expected a tensor of shape [N, 4]")


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


def plan(model: nn.Module) -> Plan:
    """Raises ValueError if the model has a part of its own where ours would take over."""
    obstacles = list(_obstacles(model))
    if obstacles:
        raise ValueError(
            "accelerate: this RetinaNet does something of its own where focaldet would take over: "
            f"{'; '.join(obstacles)}. Nothing was changed. `patch_ops()` speeds up the operators "
            "that its own code calls."
        )
    head, cells = model.head, model.anchor_generator.cell_anchors
    grid = AnchorGrid(tuple(tuple(map(tuple, level.tolist())) for level in cells), "image")
    steps = [
        Step(model, (FusedRetinaNet,), (LOSS, DETECTIONS)),
        Step(model.anchor_generator, (GridAnchors,), (ANCHORS,), {"grid": grid}),
        Step(head.classification_head, (RawClassification,), (RAW_CLASSIFICATION,)),
        Step(head.regression_head, (RawRegression,), (RAW_REGRESSION,)),
    ]
    return Plan(steps, [])


LOSS = Replaced("compute_loss", "retinanet_loss", "IoU matrix, dense targets, second pass")
DETECTIONS = Replaced(
    "postprocess_detections", "retinanet_postprocess", "scores and copies of the maps, Python loops"
)
ANCHORS = Replaced("anchor_generator", "AnchorGrid", "the anchors, and a copy per image")
RAW_CLASSIFICATION, RAW_REGRESSION = (
    Replaced(f"head.{name}", "raw maps", "permuting and concatenating, both ways")
    for name in ("classification_head", "regression_head")
)


def _obstacles(model: nn.Module) -> Iterator[str]:
    """What has a part of its own, and what that is."""
    head = model.head
    parts = {
        "": (model, detection.RetinaNet, _FORWARD + ("compute_loss", "postprocess_detections")),
        "head": (head, retinanet.RetinaNetHead, _FORWARD + ("compute_loss",)),
        "anchor_generator": (
            model.anchor_generator,
            AnchorGenerator,
            _FORWARD + ("grid_anchors", "generate_anchors"),
        ),
        "proposal_matcher": (
            model.proposal_matcher,
            Matcher,
            ("__call__", "set_low_quality_matches_"),
        ),
        "box_coder": (model.box_coder, BoxCoder, ("decode_single",)),
    }
    if isinstance(head, retinanet.RetinaNetHead):
        losses = _FORWARD + ("compute_loss",)
        cls, box = head.classification_head, head.regression_head
        parts |= {
            "head.classification_head": (cls, retinanet.RetinaNetClassificationHead, losses),
            "head.regression_head": (box, retinanet.RetinaNetRegressionHead, losses),
        }
        if hasattr(box, "box_coder"):
            coder = box.box_coder, BoxCoder, ("encode_single", "decode_single")
            parts["head.regression_head.box_coder"] = coder
    unlike = False
    for where, (part, base, methods) in parts.items():
        if not issubclass(original(part), base):
            unlike = True
            yield f"{where} is a {original(part).__name__}, not torchvision's {base.__name__}"
        for name in overridden(part, base, methods):
            yield f"{where or original(part).__name__} has its own {name}"
    if not unlike:
        yield from _settings(model)


_FORWARD = ("__call__", "forward")


def _settings(model: nn.Module) -> Iterator[str]:
    box = model.head.regression_head
    for where, coder in (
        ("box_coder", model.box_coder),
        ("head.regression_head.box_coder", box.box_coder),
    ):
        if tuple(coder.weights) != (1, 1, 1, 1) or coder.bbox_xform_clip != math.log(1000 / 16):
            yield f"{where} has weights {coder.weights}, clip {coder.bbox_xform_clip:.4g}"
    if box._loss_type not in BOX_LOSSES:
        yield f"head.regression_head has the loss type {box._loss_type!r}"
    counts = {len(level) for level in model.anchor_generator.cell_anchors}
    if len(counts) != 1:
        yield f"anchor_generator has {sorted(counts)} anchors a position, not as many on each level"
    ignored = model.head.classification_head.BETWEEN_THRESHOLDS
    if ignored != Matcher.BETWEEN_THRESHOLDS:
        yield f"head.classification_head ignores the match {ignored}"
