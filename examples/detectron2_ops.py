"""detectron2: RetinaNet's losses from the raw maps of its head, matching without a matrix, and NMS.

For whom: who trains or runs RetinaNet, or another detector of detectron2 (v0.6 or later). Import
this file before the model is built, and name the class in the configuration; weights, solver and
evaluation stay as they are:

    import detectron2_ops
    cfg.MODEL.META_ARCHITECTURE = "FocaldetRetinaNet"  # "RetinaNet" undoes it

Other detectors (FCOS, Faster R-CNN, Mask R-CNN) call loss and NMS by function:

    with accelerate_functions() as swap:  # or keep what it returns, and undo() it some day
        print(swap)  # what was replaced
        trainer.train()

The matcher of Faster, Mask and Cascade R-CNN, and of detectron2's own RetinaNet, takes boxes in
place of their IoU matrix:

    with accelerate_matching() as swap:
        trainer.train()

What it saves: permuted copies of the head's maps, one-hot targets, a dozen tensors of the size of
the logits, an IoU matrix for each image, anchors written out in training; quadratic suppression.

What differs: a ground truth that overlaps no anchor claims none (detectron2 would make every anchor
that overlaps nothing foreground). A matcher gives anchors that are not foreground row 0, where
detectron2 gives that of the nearest box, and makes no use of it. Losses are summed in float32 from
sigma(x) and sigma(-x). NMS compares classes by number, instead of shifting boxes, which rounds
their coordinates; equal scores go to the lower row. The class rejects, with the reason, a
configuration that its loss cannot express; the matcher does by the matrix what it cannot.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from detectron2.layers import batched_nms as _their_nms
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.modeling.matcher import Matcher
from detectron2.modeling.meta_arch.retinanet import RetinaNet
from detectron2.structures import Boxes
from detectron2.structures import pairwise_iou as _their_iou
from detectron2.utils.events import get_event_storage
from fvcore.nn import sigmoid_focal_loss as _their_loss
from fvcore.nn import sigmoid_focal_loss_jit as _their_scripted_loss
from swap import Swap, swap
from torch import Tensor
from torch.utils._pytree import tree_map

from focaldet import Anchors, ops

_their_match = Matcher.__call__


@META_ARCH_REGISTRY.register()
class FocaldetRetinaNet(RetinaNet):
    """detectron2's RetinaNet, its configuration and its checkpoints, with fused operators."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        matcher = self.anchor_matcher
        if list(matcher.labels) != [0, -1, 1]:
            raise ValueError(
                "FocaldetRetinaNet: expected MODEL.RETINANET.IOU_LABELS [0, -1, 1], got "
                f"{list(matcher.labels)}; META_ARCHITECTURE RetinaNet takes them"
            )
        weights = tuple(self.box2box_transform.weights)
        if weights != (1, 1, 1, 1):
            raise ValueError(
                "FocaldetRetinaNet: expected MODEL.RETINANET.BBOX_REG_WEIGHTS of 1, got "
                f"{weights}; META_ARCHITECTURE RetinaNet takes them"
            )
        _, bg_iou, fg_iou, _ = matcher.thresholds
        rule = "torchvision" if matcher.allow_low_quality_matches else "none"
        self._matching = {"fg_iou": fg_iou, "bg_iou": bg_iou, "low_quality": rule}
        # A beta of 0 makes the smooth L1 loss L1, here as there.
        self._box_loss = {"box_loss": self.box_reg_loss_type, "beta": self.smooth_l1_beta}

    def forward_training(
        self, images: Any, features: list[Tensor], predictions: Any, gt_instances: list[Any]
    ) -> dict[str, Tensor]:
        logits, deltas = predictions  # by level, [N, A * K, H, W] and [N, A * 4, H, W]
        anchors = self._anchors([tuple(level.shape[-2:]) for level in logits])
        boxes, splits = _batched([each.gt_boxes.tensor for each in gt_instances])
        labels = torch.cat([each.gt_classes for each in gt_instances])
        foreground = int(ops.count_foreground(anchors, boxes, splits, **self._matching).sum())
        get_event_storage().put_scalar("num_pos_anchors", foreground / len(gt_instances))
        normalizer = self._ema_update("loss_normalizer", max(foreground, 1), 100)
        classification, regression, _ = ops.retinanet_loss(
            logits,
            deltas,
            anchors,
            boxes,
            labels,
            splits,
            alpha=self.focal_loss_alpha,
            gamma=self.focal_loss_gamma,
            normalizer=boxes.new_full((), normalizer),
            **self._matching,
            **self._box_loss,
        )
        return {"loss_cls": classification, "loss_box_reg": regression}

    @torch.no_grad()
    def label_anchors(
        self, anchors: list[Any], gt_instances: list[Any]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """By image, labels (-1 ignored, K background) and boxes of the anchors: for subclasses
        that have losses of their own."""
        table = torch.cat([level.tensor for level in anchors])
        boxes, splits = _batched([each.gt_boxes.tensor for each in gt_instances])
        gt_labels, gt_boxes = [], []
        matches = ops.match_anchors(table, boxes, splits, **self._matching)
        for match, each in zip(matches.long(), gt_instances, strict=True):
            background = torch.where(match == -1, self.num_classes, -1)
            if len(each) == 0:
                gt_labels.append(background)
                gt_boxes.append(torch.zeros_like(table))
                continue
            row = match.clamp(min=0)
            gt_labels.append(torch.where(match < 0, background, each.gt_classes[row]))
            gt_boxes.append(each.gt_boxes.tensor[row])
        return gt_labels, gt_boxes

    def inference_single_image(
        self,
        anchors: list[Any],
        box_cls: list[Tensor],
        box_delta: list[Tensor],
        image_size: tuple[int, int],
    ) -> Any:
        settings = self.test_score_thresh, self.test_topk_candidates, image_size
        found = self._decode_multi_level_predictions(anchors, box_cls, box_delta, *settings)
        keep = batched_nms(
            found.pred_boxes.tensor, found.scores, found.pred_classes, self.test_nms_thresh
        )
        return found[keep[: self.max_detections_per_image]]

    def _anchors(self, sizes: list[tuple[int, int]]) -> Anchors:
        """The grid of `self.anchor_generator` over maps of these sizes."""
        generator = self.anchor_generator
        if not hasattr(self, "_cells"):  # read once: on a GPU that waits for it
            cells = (level.tolist() for level in generator.cell_anchors)
            self._cells = tuple(tuple(map(tuple, level)) for level in cells)
        strides = tuple((stride, stride) for stride in generator.strides)
        return Anchors(self._cells, tuple(sizes), strides, generator.offset)


def _batched(boxes: list[Tensor]) -> tuple[Tensor, Tensor]:
    """All boxes, float32 [T, 4], and the splits of their images."""
    together = torch.cat(boxes)
    ends = torch.tensor([0, *map(len, boxes)]).cumsum(0)
    return together.float(), ends.to(together.device)


def accelerate_functions() -> Swap:
    """Replaces `batched_nms` and the focal loss in detectron2, until `undo` or the end of a
    `with`."""
    # A function each, by which undo tells them apart.
    losses = {each: partial(sigmoid_focal_loss) for each in (_their_loss, _their_scripted_loss)}
    return swap("detectron2", {_their_nms: batched_nms, **losses})


def batched_nms(boxes: Tensor, scores: Tensor, idxs: Tensor, iou_threshold: float) -> Tensor:
    """As detectron2.layers.batched_nms: in float32."""
    return ops.batched_nms(boxes.float(), scores, idxs, iou_threshold)


def sigmoid_focal_loss(
    inputs: Tensor,
    targets: Tensor,
    alpha: float = -1,
    gamma: float = 2,
    reduction: str = "none",
) -> Tensor:
    """As fvcore.nn.sigmoid_focal_loss: float32, whatever the inputs."""
    if reduction == "none":
        inputs = inputs.float()
    return ops.sigmoid_focal_loss(inputs, targets.to(inputs.dtype), alpha, gamma, reduction)


def accelerate_matching() -> Swap:
    """Has `Matcher` match boxes in `detectron2.modeling`, until `undo` or the end of a `with`."""
    return swap("detectron2.modeling", {_their_iou: pairwise_iou, _their_match: match})


class Pairs(Tensor):
    """The IoU matrix [M, N] of M boxes and N anchors, which is made when somebody reads it."""

    boxes: Boxes
    anchors: Boxes
    made: Tensor | None  # kept, as somebody may write to it

    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, boxes: Boxes, anchors: Boxes) -> Pairs:
        shape, like = (len(boxes), len(anchors)), boxes.tensor
        made = Tensor._make_wrapper_subclass(cls, shape, dtype=like.dtype, device=like.device)
        made.boxes, made.anchors, made.made = boxes, anchors, None
        return made

    @classmethod
    def __torch_dispatch__(
        cls, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Anything but its shape is asked of the matrix itself."""
        args, kwargs = tree_map(
            lambda each: each.matrix() if isinstance(each, Pairs) else each, (args, kwargs or {})
        )
        return function(*args, **kwargs)

    def matrix(self) -> Tensor:
        if self.made is None:
            self.made = _their_iou(self.boxes, self.anchors)
        return self.made


def pairwise_iou(boxes1: Boxes, boxes2: Boxes) -> Tensor:
    """As detectron2.structures.pairwise_iou: a `Pairs`, unless it has no elements or a gradient."""
    tensors = boxes1.tensor, boxes2.tensor
    served = {each.device.type for each in tensors} in ({"cpu"}, {"cuda"})
    has_gradient = torch.is_grad_enabled() and any(each.requires_grad for each in tensors)
    if not served or has_gradient or 0 in map(len, tensors):
        return _their_iou(boxes1, boxes2)
    return Pairs(boxes1, boxes2)


def match(matcher: Matcher, match_quality_matrix: Tensor) -> tuple[Tensor, Tensor]:
    """As Matcher.__call__: int64 rows and int8 labels, of a `Pairs` without its matrix, where
    `match_anchors` has the matcher's rules."""
    pairs = match_quality_matrix
    if not isinstance(pairs, Pairs) or pairs.made is not None or not _has_our_rules(matcher):
        return _their_match(matcher, pairs)
    boxes, splits = _batched([pairs.boxes.tensor])
    rows = ops.match_anchors(
        pairs.anchors.tensor.detach(),
        boxes.detach(),
        splits,
        fg_iou=matcher.thresholds[-2],
        bg_iou=matcher.thresholds[1],
        low_quality="torchvision" if matcher.allow_low_quality_matches else "none",
    )[0].long()
    below, between = matcher.labels[0], matcher.labels[-2]
    labels = torch.ones_like(rows, dtype=torch.int8)
    labels = labels.masked_fill(rows == -1, below).masked_fill(rows == -2, between)
    return rows.clamp(min=0), labels


def _has_our_rules(matcher: Matcher) -> bool:
    """Foreground from one threshold on, and below it one or two labels that are not."""
    *below, last = matcher.labels
    same_rule = type(matcher).set_low_quality_matches_ is Matcher.set_low_quality_matches_
    in_range = all(0 <= each <= 1 for each in matcher.thresholds[1:-1])
    return last == 1 and len(below) in (1, 2) and 1 not in below and same_rule and in_range


def main() -> None:
    from detectron2.modeling.meta_arch import retinanet

    logits, targets = torch.randn(5000, 80, requires_grad=True), torch.rand(5000, 80).round()
    corners = (torch.rand(2000, 2) * 500).round()
    boxes = torch.cat([corners, corners + (torch.rand(2000, 2) * 100).round() + 1], dim=1)
    scores, idxs = torch.randperm(2000) / 2000, torch.randint(0, 80, (2000,))

    def run() -> tuple[Tensor, Tensor, Tensor]:
        loss = retinanet.sigmoid_focal_loss_jit(
            logits, targets, alpha=0.25, gamma=2.0, reduction="sum"
        )
        kept = retinanet.batched_nms(boxes, scores, idxs, 0.5)
        return loss, torch.autograd.grad(loss, logits)[0], kept

    theirs = run()
    with accelerate_functions() as swap:
        print(swap)
        ours = run()
    torch.testing.assert_close(ours, theirs)
    print(f"loss {ours[0]:.3f} here, {theirs[0]:.3f} there; gradients and the boxes kept agree")


if __name__ == "__main__":
    main()
