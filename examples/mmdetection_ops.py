"""mmdetection 3: focal loss, matching and NMS.

For whom: who trains or runs dense heads of mmdet (RetinaNet, ATSS, FCOS, GFL, ...) and does not
want mmcv's kernels, which have no focal loss on the CPU and no bfloat16. In a config:

    custom_imports = dict(imports=["mmdetection_ops"])
    model = dict(
        bbox_head=dict(loss_cls=dict(type="FocaldetFocalLoss", loss_weight=1.0)),
        train_cfg=dict(assigner=dict(type="FocaldetMaxIoUAssigner")),
    )

The other keys keep their meaning, as both classes are the original ones with another core: what
they cannot do is handed on. mmdet's heads call mmcv's NMS by function, so that it is replaced:

    with accelerate_nms() as swap:  # or keep what it returns, and undo() it some day
        print(swap)  # what was replaced
        runner.test()

What it saves: one-hot targets and a dozen tensors of the size of the logits in the loss; the IoU
matrix and a wait for the GPU for each ground-truth box in the assigner; quadratic suppression.

What differs: the loss of half types is summed in float32. A ground truth that overlaps no anchor
claims none (mmdet would give it every anchor that overlaps nothing). The assigner's result has no
`max_overlaps` (None), which neither RetinaNet's sampler nor its loss reads; samplers that add the
ground truth as proposals, as those of R-CNN heads do, need it: leave these heads their assigner.
NMS compares classes by number, instead of shifting boxes, which rounds their coordinates; equal
scores go to the lower row.
"""

from __future__ import annotations

from typing import Any

import torch
from mmcv.ops import batched_nms as _theirs
from mmdet.models.losses.focal_loss import FocalLoss
from mmdet.models.losses.utils import weight_reduce_loss
from mmdet.models.task_modules.assigners import AssignResult, BboxOverlaps2D, MaxIoUAssigner
from mmdet.registry import MODELS, TASK_UTILS
from mmdet.structures.bbox import get_box_tensor
from swap import Swap, swap
from torch import Tensor

from focaldet import ops


@MODELS.register_module()
class FocaldetFocalLoss(FocalLoss):
    """mmdet's FocalLoss, with its arguments; probabilities (`activated`) are left to it."""

    def forward(
        self,
        pred: Tensor,  # [N, K]
        target: Tensor,  # int64 [N] in [0, K], K is background; or [N, K]
        weight: Tensor | None = None,  # [N], [N, K] or [N * K]
        avg_factor: float | None = None,
        reduction_override: str | None = None,
    ) -> Tensor:
        if self.activated:
            return super().forward(pred, target, weight, avg_factor, reduction_override)
        reduction = reduction_override or self.reduction
        if pred.dim() == target.dim():
            target = target.to(pred.dtype)
        else:
            target = torch.where(target == pred.shape[1], -1, target)
            if weight is not None and weight.shape == target.shape and _is_mask(weight):
                target, weight = torch.where(weight == 0, -2, target), None  # ignored
        if reduction == "none" or weight is not None:
            loss = ops.sigmoid_focal_loss(pred, target, self.alpha, self.gamma)
            weight = _as_columns(weight, loss)
            return self.loss_weight * weight_reduce_loss(loss, weight, reduction, avg_factor)
        total = ops.sigmoid_focal_loss(pred, target, self.alpha, self.gamma, reduction="sum")
        if reduction == "mean" and avg_factor is None:
            total, reduction = total / pred.numel(), "sum"  # ignored elements count here
        return self.loss_weight * weight_reduce_loss(total, None, reduction, avg_factor)


def _is_mask(weight: Tensor) -> bool:
    """Whether the weights are those of mmdet's anchor heads, 1 or 0: then nothing of the size of
    the logits is needed. To know, the host waits for a GPU, once a call."""
    return bool(((weight == 0) | (weight == 1)).all())


def _as_columns(weight: Tensor | None, loss: Tensor) -> Tensor | None:
    if weight is None or weight.shape == loss.shape:
        return weight
    return weight[:, None] if len(weight) == len(loss) else weight.view_as(loss)


@TASK_UTILS.register_module()
class FocaldetMaxIoUAssigner(MaxIoUAssigner):
    """mmdet's MaxIoUAssigner, with its arguments. What needs the IoU matrix is left to it: ignored
    ground truth, a `min_pos_iou` above 0 with low-quality matches, and the like."""

    def assign(
        self,
        pred_instances: Any,
        gt_instances: Any,
        gt_instances_ignore: Any = None,
        **kwargs: Any,
    ) -> AssignResult:
        ignored = gt_instances_ignore is not None and len(gt_instances_ignore) > 0
        if not self._is_plain() or (ignored and self.ignore_iof_thr > 0):
            return super().assign(pred_instances, gt_instances, gt_instances_ignore, **kwargs)
        boxes = get_box_tensor(gt_instances.bboxes)
        matches = ops.match_anchors(
            get_box_tensor(pred_instances.priors),
            boxes,
            torch.tensor([0, len(boxes)], device=boxes.device),
            self.pos_iou_thr,
            self.neg_iou_thr,
            "mmdet" if self.match_low_quality else "none",
        )[0].long()
        labels = torch.full_like(matches, -1)
        if len(boxes) > 0:
            labels = torch.where(matches < 0, labels, gt_instances.labels[matches.clamp(min=0)])
        # -2, between the thresholds, is their -1; -1, background, their 0; row i their i + 1.
        return AssignResult(len(boxes), matches + 1, None, labels)

    def _is_plain(self) -> bool:
        low_quality = self.gt_max_assign_all and self.min_pos_iou <= 0
        return (
            (low_quality or not self.match_low_quality)
            and isinstance(self.neg_iou_thr, float)
            and self.neg_iou_thr <= self.pos_iou_thr
            and self.perm_repeat_gt_cfg is None
            and type(self.iou_calculator) is BboxOverlaps2D
            and self.iou_calculator.dtype is None
        )


# Keys of nms_cfg, of the types that are replaced. Others are handed on, with whatever they mean.
_KEYS = {
    "nms": {"iou_threshold", "score_threshold", "max_num", "split_thr"},
    "soft_nms": {"iou_threshold", "sigma", "min_score", "method", "split_thr"},
}


def accelerate_nms() -> Swap:
    """Replaces `batched_nms` in mmdet, until `undo` or the end of a `with`."""
    return swap("mmdet", {_theirs: batched_nms})


def batched_nms(
    boxes: Tensor,  # [N, 4]
    scores: Tensor,  # [N]
    idxs: Tensor,  # [N]
    nms_cfg: dict[str, Any] | None,
    class_agnostic: bool = False,
) -> tuple[Tensor, Tensor]:
    """As mmcv.ops.batched_nms: [k, 5], boxes and scores, and int64 [k], their rows."""
    config = dict(nms_cfg or {"type": None})
    class_agnostic = config.pop("class_agnostic", class_agnostic)
    kind = config.pop("type", "nms")
    known = isinstance(kind, str) and config.keys() <= _KEYS.get(kind, set())
    if not known or config.get("method") == "naive" or boxes.shape[-1] != 4:
        return _theirs(boxes, scores, idxs, nms_cfg, class_agnostic)
    config.pop("split_thr", None)  # the number of boxes from which theirs takes classes in turn
    groups = torch.zeros_like(idxs) if class_agnostic else idxs
    if kind == "soft_nms":
        keep, scores = ops.soft_nms(boxes, scores, **config, idxs=groups.long())
        scores = scores.to(boxes.dtype)
    else:
        keep = _plain_nms(boxes, scores, groups.long(), **config)
        scores = scores[keep]
    return torch.cat([boxes[keep], scores[:, None]], dim=1), keep


def _plain_nms(
    boxes: Tensor,
    scores: Tensor,
    groups: Tensor,
    iou_threshold: float,
    score_threshold: float = 0,
    max_num: int = -1,
) -> Tensor:
    keep = ops.batched_nms(boxes, scores, groups, iou_threshold)
    if score_threshold > 0:  # what is worse suppresses nothing better
        keep = keep[scores[keep] > score_threshold]
    return keep[:max_num] if max_num > 0 else keep


def main() -> None:
    from mmdet.models.dense_heads import base_dense_head

    pred, target = torch.randn(5000, 80, requires_grad=True), torch.randint(0, 81, (5000,))
    config = {"use_sigmoid": True, "gamma": 2.0, "alpha": 0.25}
    losses = [
        MODELS.build({"type": name, **config})(pred, target, avg_factor=100)
        for name in ("FocalLoss", "FocaldetFocalLoss")
    ]
    torch.testing.assert_close(*losses)
    torch.testing.assert_close(*(torch.autograd.grad(loss, pred)[0] for loss in losses))
    print(f"FocaldetFocalLoss: {losses[1]:.6f}, FocalLoss: {losses[0]:.6f}; gradients agree")

    corners = (torch.rand(2000, 2) * 500).round()
    boxes = torch.cat([corners, corners + (torch.rand(2000, 2) * 100).round() + 1], dim=1)
    arguments = boxes, torch.randperm(2000) / 2000, torch.randint(0, 80, (2000,))
    theirs = base_dense_head.batched_nms(*arguments, {"type": "nms", "iou_threshold": 0.5})
    with accelerate_nms() as swap:
        print(swap)
        ours = base_dense_head.batched_nms(*arguments, {"type": "nms", "iou_threshold": 0.5})
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0)
    print(f"the same {len(ours[1])} of 2000 boxes kept")


if __name__ == "__main__":
    main()
