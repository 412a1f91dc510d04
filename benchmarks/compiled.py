"""torch.compile as a provider: plain torch, written as suits the compiler best."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from focaldet import reference

from .case import Differentiable, Provider, Run


def compiled(function: Callable[..., Any], arguments: Callable[[Any], tuple[Any, ...]]) -> Provider:
    """Compiled for these shapes at its first call, which the clock does not see."""

    def provider(inputs: Any) -> Run:
        ready = torch.compile(function, fullgraph=True, dynamic=False)
        given = arguments(inputs)
        return lambda: ready(*given)

    return provider


def compiled_both_ways(
    function: Callable[..., Tensor], arguments: Callable[[Any], tuple[Tensor, ...]]
) -> Provider:
    """The first argument is the leaf."""

    def provider(inputs: Any) -> Run:
        ready = torch.compile(function, fullgraph=True, dynamic=False)
        given = arguments(inputs)
        return Differentiable(lambda: (ready(*given),), given[:1])

    return provider


def compiled_loss(function: Callable[[Tensor, Tensor], Tensor]) -> Provider:
    return compiled_both_ways(function, lambda x: (x.logits, x.targets))


def focal_from_labels(logits: Tensor, labels: Tensor) -> Tensor:
    """The compiler fuses each way into one pass and stores no dense targets. Ignored labels are
    left out, in its favour."""
    right = labels[:, None] == torch.arange(logits.shape[1], device=logits.device)
    x = logits.float()
    signed = torch.where(right, x, -x)
    weight = torch.where(right, 0.25, 0.75)
    return (weight * torch.sigmoid(-signed) ** 2 * -F.logsigmoid(signed)).sum()


def focal_from_targets(logits: Tensor, targets: Tensor) -> Tensor:
    """For targets between 0 and 1."""
    x, t = logits.float(), targets.float()
    p, q = torch.sigmoid(x), torch.sigmoid(-x)
    cross_entropy = -(t * F.logsigmoid(x) + (1 - t) * F.logsigmoid(-x))
    weight = 0.25 * t + 0.75 * (1 - t)
    return (weight * (p * (1 - t) + q * t) ** 2 * cross_entropy).sum()


def softmax_focal(logits: Tensor, labels: Tensor) -> Tensor:
    """Of rows none of which is ignored, in its favour."""
    cross_entropy = F.cross_entropy(logits.float(), labels, reduction="none")
    return (0.25 * (1 - torch.exp(-cross_entropy)) ** 2 * cross_entropy).sum()


def match_one_image(anchors: Tensor, boxes: Tensor) -> Tensor:
    """The reference's rule, low-quality matches included, with no size that depends on values."""
    iou = reference.box_iou(boxes, anchors)
    best, match = iou.max(dim=0)
    result = torch.where(best < 0.5, -2, match)
    result = torch.where(best < 0.4, -1, result)
    top = iou.amax(dim=1, keepdim=True)
    claimed = ((iou == top) & (top > 0)).any(dim=0)
    return torch.where(claimed, match, result)[None]
