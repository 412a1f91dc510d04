"""Box arithmetic: areas, IoU of all pairs, and the offsets of the box subnet."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ._common import wide_pair

MAX_LOG_SCALE = math.log(1000 / 16)


def box_area(boxes: Tensor) -> Tensor:
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


def box_iou(a: Tensor, b: Tensor) -> Tensor:  # [N, 4], [M, 4] -> [N, M]
    """Intersection over union of all pairs."""
    a, b = wide_pair(a, b)
    top_left = torch.maximum(a[:, None, :2], b[:, :2])
    bottom_right = torch.minimum(a[:, None, 2:], b[:, 2:])
    size = (bottom_right - top_left).clamp(min=0)
    inter = size[..., 0] * size[..., 1]
    return inter / (box_area(a)[:, None] + box_area(b) - inter)


def encode_boxes(gt_boxes: Tensor, anchors: Tensor) -> Tensor:  # [..., 4], [..., 4]
    """(dx, dy, dw, dh) of boxes seen from anchors: Girshick et al. 2014, appendix C."""
    gt_boxes, anchors = wide_pair(gt_boxes, anchors)
    center, size = _center_size(anchors)
    gt_center, gt_size = _center_size(gt_boxes)
    return torch.cat([(gt_center - center) / size, torch.log(gt_size / size)], dim=-1)


def decode_boxes(deltas: Tensor, anchors: Tensor) -> Tensor:  # [..., 4], [..., 4]
    """Undoes encode_boxes; dw and dh are clamped above at log(1000 / 16), not below."""
    deltas, anchors = wide_pair(deltas, anchors)
    center, size = _center_size(anchors)
    center = center + deltas[..., :2] * size
    half = 0.5 * torch.exp(deltas[..., 2:].clamp(max=MAX_LOG_SCALE)) * size
    return torch.cat([center - half, center + half], dim=-1)


def _center_size(boxes: Tensor) -> tuple[Tensor, Tensor]:
    size = boxes[..., 2:] - boxes[..., :2]
    return boxes[..., :2] + 0.5 * size, size
