"""The sigmoid focal loss, its two relatives for soft targets, and their derivatives.

The three forms differ in what a logit's cross entropy is multiplied with, alpha apart:

| form | factor | source |
|---|---|---|
| "focal" | (p (1 - t) + (1 - p) t)^gamma, the chance of being wrong | Lin et al. 2017, equation 5 |
| "quality" | abs(p - t)^gamma | Li et al. 2020, "Generalized Focal Loss", equation 5 |
| "varifocal" | t where t > 0; p^gamma where t = 0 | Zhang et al. 2021, equation 2 |
"""

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
    class_weight: Tensor | None = None,  # [K]
    label_smoothing: float = 0.0,
    form: str = "focal",
) -> Tensor:
    """alpha_t m^gamma CE(p, t), with the form's m; a label outside [-1, K) has no loss.

    alpha_t mixes alpha for t = 1 and 1 - alpha for t = 0; of the varifocal form's negatives it is
    alpha. Negative: 1.
    """
    x, t = wide(inputs), dense_targets(inputs, targets, label_smoothing)
    p, q = torch.sigmoid(x), torch.sigmoid(-x)
    modulator, _ = _modulator(form, p, q, t)
    cross_entropy = _mix(t, -F.logsigmoid(x), -F.logsigmoid(-x))
    weight = _focal_weight(form, t, targets, alpha, class_weight)
    loss = torch.where(weight == 0, 0.0, weight * modulator**gamma * cross_entropy)
    if reduction == "none":
        return loss.to(inputs.dtype)
    if reduction == "sum":
        return loss.sum()
    return loss.sum() / count_targets(inputs, targets)


def quality_focal_loss(
    inputs: Tensor,  # [..., K] logits
    targets: Tensor,  # [..., K] in [0, 1]: the IoU at the label's class, 0 elsewhere
    beta: float = 2.0,
    reduction: str = "none",
) -> Tensor:
    """abs(t - p)^beta CE(p, t): the score is to be the target, not the class's chance alone."""
    return sigmoid_focal_loss(inputs, targets, -1, beta, reduction, form="quality")


def varifocal_loss(
    inputs: Tensor,  # [..., K] logits
    targets: Tensor,  # [..., K] in [0, 1]: the IoU at the label's class, 0 elsewhere
    alpha: float = 0.75,
    gamma: float = 2.0,
    reduction: str = "none",
) -> Tensor:
    """t CE(p, t) of the positives (t > 0), alpha p^gamma CE(p, 0) of the negatives."""
    return sigmoid_focal_loss(inputs, targets, alpha, gamma, reduction, form="varifocal")


def dense_targets(inputs: Tensor, targets: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Labels [...] to one-hot rows [..., K]; floating targets as they are; smoothed."""
    if not targets.is_floating_point():
        classes = torch.arange(inputs.shape[-1], device=inputs.device)
        targets = targets[..., None] == classes
    targets = targets.to(wide(inputs).dtype)
    return targets * (1 - label_smoothing) + label_smoothing / 2


def count_targets(inputs: Tensor, targets: Tensor) -> Tensor:
    """The number of elements that are not ignored, at least 1: what "mean" divides by."""
    if targets.is_floating_point():
        return torch.tensor(max(1, inputs.numel()), device=inputs.device)
    counted = (targets >= BACKGROUND) & (targets < inputs.shape[-1])
    return (counted.sum() * inputs.shape[-1]).clamp(min=1)


def _mix(t: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
    """t positive + (1 - t) negative, where 0 times infinity is 0."""
    return torch.where(t > 0, t * positive, 0.0) + torch.where(t < 1, (1 - t) * negative, 0.0)


def _modulator(form: str, p: Tensor, q: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """m, and m'/m (hard targets: without a quotient that could be 0 / 0)."""
    if form == "varifocal":
        positive = t > 0
        return torch.where(positive, 1.0, p), torch.where(positive, 0.0, q)
    if form == "quality":
        error = _error(p, q, t)
        m = error.abs()
        # Its zero is a kink or a cusp for gamma < 2; there, as of abs, 0 stands for the slope.
        soft = torch.where(error == 0, 0.0, p * q / error)
    else:
        m = p * (1 - t) + q * t
        soft = p * q * (1 - 2 * t) / m
    return m, torch.where(t == 0, q, torch.where(t == 1, -p, soft))


def _error(p: Tensor, q: Tensor, t: Tensor) -> Tensor:
    """p - t, without cancellation."""
    return p * (1 - t) - q * t


def _focal_weight(
    form: str,
    targets: Tensor,  # [..., K], dense
    labels: Tensor,  # [...] or [..., K]: the targets as given
    alpha: float | Tensor,
    class_weight: Tensor | None,
) -> Tensor:
    alpha = torch.as_tensor(alpha, dtype=targets.dtype, device=targets.device)
    mixed = alpha if form == "varifocal" else alpha * targets + (1 - alpha) * (1 - targets)
    weight = torch.where(alpha < 0, torch.ones_like(targets), mixed)
    if form == "varifocal":
        weight = torch.where(targets > 0, targets, weight)
    if class_weight is not None:
        weight = weight * class_weight.to(weight.dtype)
    if not labels.is_floating_point():
        counted = (labels >= BACKGROUND) & (labels < targets.shape[-1])
        weight = weight * counted[..., None]
    return weight


def sigmoid_focal_loss_backward(
    grad: Tensor,  # like inputs, or 0-dim
    inputs: Tensor,
    targets: Tensor,
    alpha: float | Tensor = 0.25,
    gamma: float = 2.0,
    class_weight: Tensor | None = None,
    label_smoothing: float = 0.0,
    form: str = "focal",
) -> Tensor:
    """grad * d loss / d inputs. With c the cross entropy:
    d/dx m^gamma c = m^gamma (gamma m'/m c + p - t)."""
    first, _ = _focal_derivatives(
        inputs, targets, alpha, gamma, class_weight, label_smoothing, form
    )
    return (grad * first).to(inputs.dtype)


def sigmoid_focal_loss_second_backward(
    grad: Tensor,
    inputs: Tensor,
    targets: Tensor,
    alpha: float | Tensor = 0.25,
    gamma: float = 2.0,
    class_weight: Tensor | None = None,
    label_smoothing: float = 0.0,
    form: str = "focal",
) -> Tensor:
    """grad * d^2 loss / d inputs^2, for gradients of gradients."""
    _, second = _focal_derivatives(
        inputs, targets, alpha, gamma, class_weight, label_smoothing, form
    )
    return (grad * second).to(inputs.dtype)


def _focal_derivatives(
    inputs: Tensor,
    targets: Tensor,
    alpha: float | Tensor,
    gamma: float,
    class_weight: Tensor | None,
    label_smoothing: float,
    form: str,
) -> tuple[Tensor, Tensor]:
    """The first and the second. Of every form, m''/m = (q - p) m'/m."""
    x, t = wide(inputs), dense_targets(inputs, targets, label_smoothing)
    p, q = torch.sigmoid(x), torch.sigmoid(-x)
    # Where the cross entropy is infinite its factors are 0, and the products' limits are 0.
    largest = torch.finfo(x.dtype).max
    cross_entropy = _mix(t, -F.logsigmoid(x), -F.logsigmoid(-x)).clamp(max=largest)
    m, ratio = _modulator(form, p, q, t)
    weight = _focal_weight(form, t, targets, alpha, class_weight)
    scale = torch.where(weight == 0, 0.0, weight * m**gamma)
    error = _error(p, q, t)
    first = gamma * ratio * cross_entropy + error
    bend = gamma * ratio * ((gamma - 1) * ratio + (q - p)) * cross_entropy
    second = bend + 2 * gamma * ratio * error + p * q
    first, second = (torch.where(scale == 0, 0.0, scale * each) for each in (first, second))
    if form == "quality" and gamma == 2:
        # abs(p - t)^2 is smooth: where it is 0, (m'/m)^2 m^2 is still (p q)^2.
        second = torch.where(m == 0, 2 * weight * (p * q) ** 2 * cross_entropy, second)
    return first, second
