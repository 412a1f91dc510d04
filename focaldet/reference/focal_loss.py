"""The sigmoid focal loss and its derivatives."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ._common import BACKGROUND, wide


def sigmoid_focal_loss(
    inputs: Tensor,  # [..., K] logits
    targets: Tensor,  # [..., K] in [0, 1], or int64 [...] labels
    alpha: float | Tensor = 0.25,
    gamma: float = 2.0,
    reduction: str = "none",
    *,
    class_weight: Tensor | None = None,
    label_smoothing: float = 0.0,
) -> Tensor:
    """alpha_t (1 - p_t)^gamma CE(p, t): Lin et al. 2017, equation 5."""
    x, t = wide(inputs), dense_targets(inputs, targets, label_smoothing)
    p, q = torch.sigmoid(x), torch.sigmoid(-x)
    wrong = p * (1 - t) + q * t
    cross_entropy = _mix(t, -F.logsigmoid(x), -F.logsigmoid(-x))
    weight = _focal_weight(t, targets, alpha, class_weight)
    loss = torch.where(weight == 0, 0.0, weight * wrong**gamma * cross_entropy)
    if reduction == "none":
        return loss.to(inputs.dtype)
    if reduction == "sum":
        return loss.sum()
    return loss.sum() / count_targets(inputs, targets)


def sigmoid_focal_loss_backward(
    grad: Tensor,  # like inputs, or 0-dim
    inputs: Tensor,
    targets: Tensor,
    alpha: float | Tensor = 0.25,
    gamma: float = 2.0,
    class_weight: Tensor | None = None,
    label_smoothing: float = 0.0,
) -> Tensor:
    """grad * d loss / d inputs. With m the chance of being wrong and c the cross entropy:
    d/dx m^gamma c = m^gamma (gamma m'/m c + p - t), m' = p q (1 - 2 t)."""
    first, _ = _focal_derivatives(inputs, targets, alpha, gamma, class_weight, label_smoothing)
    return (grad * first).to(inputs.dtype)


def sigmoid_focal_loss_second_backward(
    grad: Tensor,
    inputs: Tensor,
    targets: Tensor,
    alpha: float | Tensor = 0.25,
    gamma: float = 2.0,
    class_weight: Tensor | None = None,
    label_smoothing: float = 0.0,
) -> Tensor:
    """grad * d^2 loss / d inputs^2, for gradients of gradients."""
    _, second = _focal_derivatives(inputs, targets, alpha, gamma, class_weight, label_smoothing)
    return (grad * second).to(inputs.dtype)


def _focal_derivatives(
    inputs: Tensor,
    targets: Tensor,
    alpha: float | Tensor,
    gamma: float,
    class_weight: Tensor | None,
    label_smoothing: float,
) -> tuple[Tensor, Tensor]:
    x, t = wide(inputs), dense_targets(inputs, targets, label_smoothing)
    p, q = torch.sigmoid(x), torch.sigmoid(-x)
    wrong = p * (1 - t) + q * t
    # Where the cross entropy is infinite its factors are 0, and the products' limits are 0.
    largest = torch.finfo(x.dtype).max
    cross_entropy = _mix(t, -F.logsigmoid(x), -F.logsigmoid(-x)).clamp(max=largest)
    # m'/m; for hard targets without a quotient that could be 0 / 0.
    ratio = torch.where(t == 0, q, torch.where(t == 1, -p, p * q * (1 - 2 * t) / wrong))
    scale = _focal_weight(t, targets, alpha, class_weight)
    scale = torch.where(scale == 0, 0.0, scale * wrong**gamma)
    error = p * (1 - t) - q * t  # p - t, without cancellation
    first = gamma * ratio * cross_entropy + error
    bend = gamma * ratio * ((gamma - 1) * ratio + (q - p)) * cross_entropy
    second = bend + 2 * gamma * ratio * error + p * q
    zero = torch.zeros((), dtype=x.dtype, device=x.device)
    return torch.where(scale == 0, zero, scale * first), torch.where(
        scale == 0, zero, scale * second
    )


def dense_targets(inputs: Tensor, targets: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Labels [...] to one-hot rows [..., K]; floating targets as they are; smoothed."""
    if not targets.is_floating_point():
        classes = torch.arange(inputs.shape[-1], device=inputs.device)
        targets = targets[..., None] == classes
    targets = targets.to(wide(inputs).dtype)
    return targets * (1 - label_smoothing) + label_smoothing / 2


def _mix(t: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
    """t positive + (1 - t) negative, where 0 times infinity is 0."""
    return torch.where(t > 0, t * positive, 0.0) + torch.where(t < 1, (1 - t) * negative, 0.0)


def _focal_weight(
    targets: Tensor,  # [..., K], dense
    labels: Tensor,  # [...] or [..., K]: the targets as given
    alpha: float | Tensor,
    class_weight: Tensor | None,
) -> Tensor:
    alpha = torch.as_tensor(alpha, dtype=targets.dtype, device=targets.device)
    balance = alpha * targets + (1 - alpha) * (1 - targets)
    weight = torch.where(alpha < 0, torch.ones_like(balance), balance)
    if class_weight is not None:
        weight = weight * class_weight.to(weight.dtype)
    if not labels.is_floating_point():
        counted = (labels >= BACKGROUND) & (labels < targets.shape[-1])
        weight = weight * counted[..., None]
    return weight


def count_targets(inputs: Tensor, targets: Tensor) -> Tensor:
    """The number of elements that are not ignored, at least 1: what "mean" divides by."""
    if targets.is_floating_point():
        return torch.tensor(max(1, inputs.numel()), device=inputs.device)
    counted = (targets >= BACKGROUND) & (targets < inputs.shape[-1])
    return (counted.sum() * inputs.shape[-1]).clamp(min=1)
