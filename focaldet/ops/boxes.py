"""Box arithmetic: IoU of all pairs, and the offsets of the box subnet (coder weights 1)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .. import reference
from .. import torch_ops as _ops
from . import _check


def box_iou(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union of all pairs of boxes, as torchvision.ops.box_iou.

    a: [N, 4], b: [M, 4], [x1, y1, x2, y2] in pixels, any floating dtype. Returns [N, M] in float32
    (float64 if either is); half boxes are widened first, since their areas overflow. Two empty
    boxes have IoU NaN. Not differentiable. Raises TypeError or ValueError on other shapes and
    dtypes.

    Equivalent to:

    ```python
    size = (torch.minimum(a[:, None, 2:], b[:, 2:]) - torch.maximum(a[:, None, :2], b[:, :2]))
    inter = size.clamp(min=0).prod(dim=2)
    inter / (area(a)[:, None] + area(b) - inter)
    ```
    """
    _check.tensor(a, "a", ("N", 4))
    _check.tensor(b, "b", ("M", 4))
    _check.same_device("box_iou", a=a, b=b)
    _check.no_gradient("box_iou", a=a, b=b)
    return _ops.box_iou(a, b)


def encode_boxes(gt_boxes: Tensor, anchors: Tensor) -> Tensor:
    """The offsets (dx, dy, dw, dh) that turn each anchor into its box.

    gt_boxes, anchors: [..., 4] of one shape, [x1, y1, x2, y2] in pixels. Returns [..., 4] in
    float32 (float64 if either is). Not differentiable: these are targets. Source: Girshick et al.
    2014, appendix C. Raises TypeError or ValueError on other shapes and dtypes.

    Equivalent to:

    ```python
    torch.cat([(center(gt) - center(anchor)) / size(anchor), log(size(gt) / size(anchor))], -1)
    ```
    """
    _pair(gt_boxes, "gt_boxes", anchors, "encode_boxes")
    _check.no_gradient("encode_boxes", gt_boxes=gt_boxes, anchors=anchors)
    return _ops.encode_boxes(gt_boxes, anchors)


def decode_boxes(deltas: Tensor, anchors: Tensor) -> Tensor:
    """The boxes that the offsets make of the anchors; undoes `encode_boxes`.

    deltas, anchors: [..., 4] of one shape. dw and dh are clamped above at log(1000 / 16), not
    below. Returns [..., 4] in float32 (float64 if either is), [x1, y1, x2, y2] in pixels.
    Differentiable in deltas. Raises TypeError or ValueError on other shapes and dtypes.

    Equivalent to:

    ```python
    center = center(anchor) + deltas[..., :2] * size(anchor)
    half = exp(deltas[..., 2:].clamp(max=log(1000 / 16))) * size(anchor) / 2
    torch.cat([center - half, center + half], -1)
    ```
    """
    _pair(deltas, "deltas", anchors, "decode_boxes")
    _check.no_gradient("decode_boxes", anchors=anchors)
    return _ops.decode_boxes(deltas, anchors)


def _pair(a: Tensor, name: str, anchors: Tensor, op: str) -> None:
    _check.tensor(a, name)
    _check.tensor(anchors, "anchors")
    if a.shape != anchors.shape or a.dim() == 0 or a.shape[-1] != 4:
        raise ValueError(
            f"{op}: expected {name} and anchors of one shape [..., 4], "
            f"got {list(a.shape)} and {list(anchors.shape)}"
        )
    _check.same_device(op, **{name: a}, anchors=anchors)


def _wide(*tensors: Tensor) -> torch.dtype:
    return torch.float64 if any(t.dtype == torch.float64 for t in tensors) else torch.float32


@torch.library.register_fake("focaldet::box_iou")
def _(a: Tensor, b: Tensor) -> Tensor:
    return a.new_empty((a.shape[0], b.shape[0]), dtype=_wide(a, b))


@torch.library.register_fake("focaldet::encode_boxes")
def _(gt_boxes: Tensor, anchors: Tensor) -> Tensor:
    return gt_boxes.new_empty(gt_boxes.shape, dtype=_wide(gt_boxes, anchors))


@torch.library.register_fake("focaldet::decode_boxes")
def _(deltas: Tensor, anchors: Tensor) -> Tensor:
    return deltas.new_empty(deltas.shape, dtype=_wide(deltas, anchors))


def _save(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _decode_backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
    deltas, anchors = ctx.saved_tensors
    size = (anchors[..., 2:] - anchors[..., :2]).to(grad.dtype)
    log_scale = deltas[..., 2:].to(grad.dtype)
    d_center = (grad[..., :2] + grad[..., 2:]) * size
    scaled = torch.exp(log_scale.clamp(max=reference.MAX_LOG_SCALE)) * size
    d_log_scale = 0.5 * (grad[..., 2:] - grad[..., :2]) * scaled
    d_log_scale = torch.where(log_scale > reference.MAX_LOG_SCALE, 0.0, d_log_scale)
    return torch.cat([d_center, d_log_scale], dim=-1).to(deltas.dtype), None


torch.library.register_autograd("focaldet::decode_boxes", _decode_backward, setup_context=_save)
