"""The losses of foreground anchors' boxes."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from ._common import wide_pair
from .boxes import box_area, decode_boxes, encode_boxes

EPS = 1e-7  # torchvision's: keeps the quotients of empty boxes finite


def box_losses(
    deltas: Tensor,  # [n, 4] offsets
    anchors: Tensor,  # [n, 4]
    gt_boxes: Tensor,  # [n, 4]
    kind: str = "smooth_l1",
    beta: float = 0.1,
) -> Tensor:  # [n]
    """One loss a box, differentiable in the deltas.

    "l1" and "smooth_l1" (quadratic below beta; Girshick 2015) add up the distances of the offsets
    from those of the ground truth. "giou" (Rezatofighi et al. 2019), "diou" and "ciou" (Zheng et
    al. 2020) compare the decoded box with it, as torchvision.ops' *_box_iou_loss do.
    """
    if kind in ("l1", "smooth_l1"):
        target = encode_boxes(gt_boxes, anchors)
        deltas, target = wide_pair(deltas, target)
        beta = 0.0 if kind == "l1" else beta
        return F.smooth_l1_loss(deltas, target, reduction="none", beta=beta).sum(dim=-1)
    boxes, gt_boxes = wide_pair(decode_boxes(deltas, anchors), gt_boxes)
    return {"giou": _giou, "diou": _diou, "ciou": _ciou}[kind](boxes, gt_boxes)


def _overlap(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:  # [n, 4], [n, 4] -> [n], [n]
    """IoU and union, box by box. relu and not clamp: boxes that touch attract each other no more
    than boxes that do not."""
    width = torch.minimum(a[:, 2], b[:, 2]) - torch.maximum(a[:, 0], b[:, 0])
    height = torch.minimum(a[:, 3], b[:, 3]) - torch.maximum(a[:, 1], b[:, 1])
    inter = F.relu(width) * F.relu(height)
    union = box_area(a) + box_area(b) - inter
    return inter / (union + EPS), union


def _hull(a: Tensor, b: Tensor) -> Tensor:  # -> [n, 2]
    """Width and height of the smallest box around both."""
    return torch.maximum(a[:, 2:], b[:, 2:]) - torch.minimum(a[:, :2], b[:, :2])


def _giou(a: Tensor, b: Tensor) -> Tensor:
    iou, union = _overlap(a, b)
    area = _hull(a, b).prod(dim=1)
    return 1 - iou + (area - union) / (area + EPS)


def _diou(a: Tensor, b: Tensor) -> Tensor:
    diagonal = _hull(a, b).square().sum(dim=1) + EPS
    apart = (a[:, :2] + a[:, 2:] - b[:, :2] - b[:, 2:]) / 2
    return 1 - _overlap(a, b)[0] + apart.square().sum(dim=1) / diagonal


def _ciou(a: Tensor, b: Tensor) -> Tensor:
    """DIoU and the difference v of the shapes; its factor counts as a constant."""
    v = 4 / math.pi**2 * (_angle(b) - _angle(a)) ** 2
    trade = (v / (1 - _overlap(a, b)[0] + v + EPS)).detach()
    return _diou(a, b) + trade * v


def _angle(boxes: Tensor) -> Tensor:
    return torch.atan2(boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1])
