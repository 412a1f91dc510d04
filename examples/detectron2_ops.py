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

What it saves: permuted copies of the head's maps, one-hot targets, a dozen tensors of the size of
the logits, an IoU matrix for each image, anchors written out in training; quadratic suppression.

What differs: a ground truth that overlaps no anchor claims none (detectron2 would make every anchor
that overlaps nothing foreground). Losses are summed in float32 from sigma(x) and sigma(-x). NMS
compares classes by number, instead of shifting boxes, which rounds their coordinates; equal scores
go to the lower row. The class rejects, with the reason, a configuration that its loss cannot
express.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from detectron2.layers import batched_nms as _their_nms
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.modeling.meta_arch.retinanet import RetinaNet
from detectron2.utils.events import get_event_storage
from fvcore.nn import sigmoid_focal_loss as _their_loss
from fvcore.nn import sigmoid_focal_loss_jit as _their_scripted_loss
from swap import Swap, swap
from torch import Tensor

from focaldet import Anchors, ops


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
