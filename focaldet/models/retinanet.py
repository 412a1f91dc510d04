"""RetinaNet (Lin et al. 2017, "Focal Loss for Dense Object Detection")."""

from __future__ import annotations

import inspect
import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, TypedDict

from torch import Tensor, nn

from ..ops import AnchorGrid, Anchors, retinanet_postprocess
from ..ops.choices import (
    BOX_LOSSES,
    LOW_QUALITY,
    NORMALIZERS,
    BoxLoss,
    LowQuality,
    Normalizer,
)
from .backbones import check_backbone, make_body
from .fpn import BodyWithFPN, FeaturePyramid, check_levels
from .head import RetinaNetHead
from .losses import LOSSES, Loss, LossName, make_loss
from .outputs import Detection, Detections, LossDict, Losses
from .resnet import NORMS, STRIDES_IN
from .transform import GroundTruth, Transform

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class Variant(TypedDict):
    """Arguments of `RetinaNet` that go together."""

    p6_from: str
    head_norm: str
    box_loss: BoxLoss


# torchvision's second version, `retinanet_resnet50_fpn_v2`: RetinaNet(K, **V2).
V2: Variant = {"p6_from": "c5", "head_norm": "group", "box_loss": "giou"}


class RetinaNet(nn.Module):
    """A detector of `num_classes` classes, labels 0 .. num_classes - 1; no background among them.

    It is called as torchvision's RetinaNet is, and has its parameter names and, where they exist
    there, its argument names and defaults; `retinanet_resnet50_fpn(num_classes=K)` has the state
    dict of `RetinaNet(K)`, and `retinanet_resnet50_fpn_v2` that of `RetinaNet(K, **V2)`.

    In training, `model(images, targets)` gives the two losses by name. In evaluation,
    `model(images)` gives a dict of boxes, scores and labels for each image. Images are floating
    tensors [3, H, W] in [0, 1], of any sizes; a target is a dict of boxes, floating [n, 4]
    (x1, y1, x2, y2 in pixels of its image), and labels, int64 [n]. Other input raises ValueError.
    With `resize=False` images are taken at the sizes they have.

    `features`, `loss` and `detect` are the same on batched tensors: no lists of dicts, nothing that
    depends on the data's values. They compile whole, and a CUDA graph may capture them. In eager
    training on the CPU `loss` leaves the gradients in the memory of the head's outputs, which are
    empty afterwards: a hook that wants them takes a copy, or a detached view, which makes it keep
    them. With `model.keep_maps = True` it always does, which second derivatives need.
    `torch.func.functional_call` takes the model; torch.func's transforms (grad, vjp, vmap) do not
    take operators whose derivatives torch.library registers, and so neither `loss`.

    Args:
        num_classes: K.
        backbone: "resnet18", "resnet34", "resnet50" or "resnet101"; or "timm/<name>", a
            convolutional model of timm (see `focaldet.models.backbones.TimmBody`), which has its
            own norm, width and stride.
        norm: of the backbone: "batch", "frozen" (for pretrained weights) or "group".
        width: channels of the backbone's first layer; less than 64 for small models.
        fpn_channels, head_depth: channels of the pyramid and the head, layers of each subnet.
        head_norm: None, or "group" for a GroupNorm after each of those layers.
        p6_from: "p5", or "c5" as in the paper.
        p7_relu: whether a ReLU stands between P6 and P7, as in the paper.
        stride_in: "3x3", or "1x1" for ResNets whose bottlenecks have the stride there.
        finest_level: 3, or 2 for P2 to P6, of strides 4 to 64: four times as many anchors.
        anchor_grid: the anchors of the five levels; `AnchorGrid.torchvision()` unless given.
        min_size, max_size, max_scale, image_mean, image_std: see Transform.
        score_thresh, topk_candidates, nms_thresh, detections_per_img: on each level the best
            `topk_candidates` scores above `score_thresh` are decoded; after NMS within each class
            the best `detections_per_img` of the image remain.
        fg_iou_thresh, bg_iou_thresh, low_quality: see `focaldet.ops.match_anchors`.
        loss: "focal", "cross_entropy", "balanced_cross_entropy", "ohem" or "ohem_1to3".
        alpha, gamma: of the focal loss (alpha also of balanced cross entropy).
        ohem_batch, ohem_nms_thresh: see `focaldet.models.losses.ohem_loss`.
        box_loss, beta, normalizer: see `focaldet.ops.retinanet_loss`.

    `config` holds these arguments as JSON values, and `RetinaNet.from_config` undoes it.
    """

    keep_maps = False
    config: dict[str, Any]
    transform: Transform
    backbone: BodyWithFPN
    head: RetinaNetHead
    criterion: Loss

    def __init__(
        self,
        num_classes: int,
        backbone: str = "resnet50",
        *,
        norm: str = "batch",
        width: int = 64,
        fpn_channels: int = 256,
        head_depth: int = 4,
        head_norm: str | None = None,
        p6_from: str = "p5",
        p7_relu: bool = True,
        stride_in: str = "3x3",
        finest_level: int = 3,
        anchor_grid: AnchorGrid | None = None,
        min_size: int = 800,
        max_size: int = 1333,
        max_scale: float | None = None,
        image_mean: Sequence[float] = IMAGENET_MEAN,
        image_std: Sequence[float] = IMAGENET_STD,
        score_thresh: float = 0.05,
        nms_thresh: float = 0.5,
        detections_per_img: int = 300,
        topk_candidates: int = 1000,
        fg_iou_thresh: float = 0.5,
        bg_iou_thresh: float = 0.4,
        low_quality: LowQuality = "torchvision",
        loss: LossName = "focal",
        alpha: float = 0.25,
        gamma: float = 2.0,
        ohem_batch: int = 512,
        ohem_nms_thresh: float = 0.7,
        box_loss: BoxLoss = "smooth_l1",
        beta: float = 0.1,
        normalizer: Normalizer = "batch",
    ) -> None:
        arguments = {k: v for k, v in locals().items() if k not in ("self", "__class__")}
        super().__init__()
        check_backbone(backbone)
        for name, choices in {
            "norm": tuple(NORMS),
            "head_norm": (None, "group"),
            "p6_from": ("p5", "c5"),
            "p7_relu": (True, False),
            "stride_in": STRIDES_IN,
            "finest_level": (2, 3),
            "low_quality": LOW_QUALITY,
            "loss": LOSSES,
            "box_loss": BOX_LOSSES,
            "normalizer": NORMALIZERS,
        }.items():
            if arguments[name] not in choices:
                raise ValueError(f"{name}: expected one of {choices}, got {arguments[name]!r}")
        for name in ("num_classes", "width", "fpn_channels", "min_size", "max_size"):
            if not isinstance(arguments[name], int) or arguments[name] < 1:
                raise ValueError(f"{name}: expected a positive int, got {arguments[name]!r}")
        anchor_grid = anchor_grid or AnchorGrid.torchvision()
        check_levels(anchor_grid, finest_level)

        # Through JSON and back: what is stored is what a checkpoint will return.
        self.config = json.loads(json.dumps(arguments | {"anchor_grid": asdict(anchor_grid)}))
        self.num_classes = num_classes
        self.anchor_grid = anchor_grid
        self.transform = Transform(min_size, max_size, image_mean, image_std, max_scale)
        body = make_body(backbone, norm, width, stride_in, finest_level)
        self.backbone = BodyWithFPN(
            body, FeaturePyramid(body.out_channels, fpn_channels, p6_from, p7_relu)
        )
        self.head = RetinaNetHead(
            fpn_channels, anchor_grid.per_position, num_classes, head_depth, head_norm
        )
        self.score_thresh = score_thresh
        self.nms_thresh = nms_thresh
        self.detections_per_img = detections_per_img
        self.topk_candidates = topk_candidates
        self.criterion = make_loss(
            loss,
            alpha=alpha,
            gamma=gamma,
            ohem_batch=ohem_batch,
            ohem_nms_thresh=ohem_nms_thresh,
            fg_iou=fg_iou_thresh,
            bg_iou=bg_iou_thresh,
            low_quality=low_quality,
            box_loss=box_loss,
            beta=beta,
            normalizer=normalizer,
        )

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> RetinaNet:
        """A new model with the arguments in `config`, which may have been through JSON."""
        grid = {k: _tuples(v) for k, v in config["anchor_grid"].items()}
        return cls(**(config | {"anchor_grid": AnchorGrid(**grid)}))

    @classmethod
    def complete(cls, config: dict[str, Any]) -> dict[str, Any]:
        """A config of an earlier version, with the defaults of the arguments added since."""
        parameters = inspect.signature(cls).parameters.values()
        defaults = {p.name: p.default for p in parameters if p.default is not p.empty}
        plain: dict[str, Any] = json.loads(json.dumps(defaults))
        return plain | config

    # The core: tensors in, tensors out.

    def features(self, batch: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Images [B, 3, H, W], H and W multiples of 32, to raw maps over the levels:

        class logits [B, A*K, H_l, W_l] and box deltas [B, A*4, H_l, W_l].
        """
        maps: tuple[list[Tensor], list[Tensor]] = self.head(self.backbone(batch))
        return maps

    def anchors(self, maps: list[Tensor], batch: Tensor) -> Anchors:
        sizes = [(level.shape[-2], level.shape[-1]) for level in maps]
        return self.anchor_grid.at(sizes, (batch.shape[-2], batch.shape[-1]))

    def loss(
        self,
        batch: Tensor,
        gt_boxes: Tensor,
        gt_labels: Tensor,
        gt_splits: Tensor,
        normalizer: Tensor | None = None,
    ) -> Losses:
        """Images [B, 3, H, W] and their boxes [T, 4], labels [T], splits [B+1] to the losses.

        `normalizer`: one number that they are divided by in place of the model's own normalizer,
        e.g. one summed over processes.
        """
        cls_logits, box_deltas = self.features(batch)
        anchors = self.anchors(cls_logits, batch)
        # What is looked at while the criterion runs is not overwritten.
        views = [m.detach() for m in (*cls_logits, *box_deltas)] if self.keep_maps else []
        given = {} if normalizer is None else {"normalizer": normalizer}
        losses = self.criterion(
            cls_logits, box_deltas, anchors, gt_boxes, gt_labels, gt_splits, **given
        )
        del views
        return Losses(*losses)

    def detect(self, batch: Tensor, image_sizes: Tensor) -> Detections:
        """Images [B, 3, H, W] and int64 [B, 2] sizes before padding to padded detections."""
        cls_logits, box_deltas = self.features(batch)
        return Detections(
            *retinanet_postprocess(
                cls_logits,
                box_deltas,
                self.anchors(cls_logits, batch),
                image_sizes,
                score_threshold=self.score_thresh,
                topk=self.topk_candidates,
                iou_threshold=self.nms_thresh,
                max_detections=self.detections_per_img,
            )
        )

    # The wrapper: torchvision's calling convention.

    def forward(
        self,
        images: Sequence[Tensor],
        targets: Sequence[GroundTruth | dict[str, Tensor]] | None = None,
        resize: bool = True,
    ) -> LossDict | list[Detection]:
        batch, sizes, scales = self.transform.images(images, resize=resize)
        if self.training:
            if targets is None:
                raise ValueError("targets: expected one per image in training mode, got None")
            packed = self.transform.targets(targets, scales, self.num_classes)
            classification, bbox_regression, _ = self.loss(batch, *packed)
            return {"classification": classification, "bbox_regression": bbox_regression}
        found = self.detect(batch, sizes)
        boxes = found.boxes / scales[:, None]
        return [
            {"boxes": boxes[i, :n], "scores": found.scores[i, :n], "labels": found.labels[i, :n]}
            for i, n in enumerate(found.counts.tolist())
        ]


def _tuples(value: Any) -> Any:
    return tuple(_tuples(v) for v in value) if isinstance(value, list) else value
