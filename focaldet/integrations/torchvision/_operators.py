"""torchvision's operators by name, on ours. What ours do not take goes to torchvision's.

So a call that torchvision refuses is refused with torchvision's error, and what only torchvision
takes (quantized boxes, thresholds outside of [0, 1], groups that are floating numbers, a gradient
of the targets, other devices) still works.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torchvision
from torch import Tensor

from ... import _C_cuda, ops
from ...ops.choices import REDUCTIONS, Reduction

# Kept here, so that what stands under their names may change.
TORCHVISION: dict[str, Callable[..., Tensor]] = {
    name: getattr(torchvision.ops, name) for name in ("nms", "batched_nms", "sigmoid_focal_loss")
}
_FLOATING = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_INTEGER = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """`torchvision.ops.nms` by `focaldet.ops.nms`, half types on the CPU included."""
    if _suppressible(boxes, scores, iou_threshold):
        return ops.nms(boxes.detach(), scores.detach(), float(iou_threshold))
    return TORCHVISION["nms"](boxes, scores, iou_threshold)


def batched_nms(boxes: Tensor, scores: Tensor, idxs: Tensor, iou_threshold: float) -> Tensor:
    """`torchvision.ops.batched_nms` by `focaldet.ops.batched_nms`: coordinates are not shifted."""
    if (
        _suppressible(boxes, scores, iou_threshold)
        and _on_its_device(idxs, boxes)
        and idxs.dtype in _INTEGER
        and idxs.shape == scores.shape
    ):
        return ops.batched_nms(boxes.detach(), scores.detach(), idxs, float(iou_threshold))
    return TORCHVISION["batched_nms"](boxes, scores, idxs, iou_threshold)


def sigmoid_focal_loss(
    inputs: Tensor,
    targets: Tensor,
    alpha: float = 0.25,
    gamma: float = 2,
    reduction: Reduction = "none",
) -> Tensor:
    """`torchvision.ops.sigmoid_focal_loss` by `focaldet.ops.sigmoid_focal_loss`.

    Sums of half types come in float32."""
    if (
        _takes(inputs)
        and _on_its_device(targets, inputs)
        and targets.dtype == inputs.dtype
        and targets.shape == inputs.shape
        and inputs.numel() > 0  # the mean of nothing is NaN there
        and not targets.requires_grad
        and isinstance(alpha, int | float)
        and (alpha == -1 or 0 <= alpha <= 1)
        and isinstance(gamma, int | float)
        and 0 <= gamma < float("inf")
        and reduction in REDUCTIONS
    ):
        return ops.sigmoid_focal_loss(inputs, targets, float(alpha), float(gamma), reduction)
    return TORCHVISION["sigmoid_focal_loss"](inputs, targets, alpha, gamma, reduction)


OURS = {"nms": nms, "batched_nms": batched_nms, "sigmoid_focal_loss": sigmoid_focal_loss}


def served(device: torch.device) -> bool:
    """Whether the operators have kernels for it."""
    return device.type == "cpu" or (device.type == "cuda" and _C_cuda is not None)


def _takes(value: object) -> bool:
    return isinstance(value, Tensor) and value.dtype in _FLOATING and served(value.device)


def _on_its_device(value: object, other: Tensor) -> bool:
    return isinstance(value, Tensor) and value.device == other.device


def _suppressible(boxes: Tensor, scores: Tensor, iou_threshold: object) -> bool:
    return (
        _takes(boxes)
        and _takes(scores)
        and boxes.device == scores.device
        and boxes.dim() == 2
        and boxes.shape[1] == 4
        and scores.shape == boxes.shape[:1]
        and isinstance(iou_threshold, int | float)
        and 0 <= iou_threshold <= 1
    )
