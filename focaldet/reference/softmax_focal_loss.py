"""The softmax focal loss: of a row whose classes exclude each other.

All of it follows from the margin z = x_t - logsumexp over the other classes, of which the softmax's
chance of the label is p_t = sigma(z): the loss of a row is the sigmoid focal loss of z with target
1, with all of its stability, and dz/dx is 1 at the label and -s_j at the others, s their softmax.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ._common import wide
from .focal_loss import (
    sigmoid_focal_loss,
    sigmoid_focal_loss_backward,
    sigmoid_focal_loss_second_backward,
)


def softmax_focal_loss(
    inputs: Tensor,  # [..., K] logits
    labels: Tensor,  # int64 [...]; outside [0, K): ignored
    alpha: float | Tensor = 0.25,
    gamma: float = 2.0,
    reduction: str = "none",
) -> Tensor:
    """alpha_t (1 - p_t)^gamma (-ln p_t) of each row; Lin et al. 2017, equation 5, with a softmax.

    alpha is a factor, or one for each label; negative: 1. "mean" divides by the rows that are not
    ignored, at least 1.
    """
    z, _, _ = _margin(inputs, labels)
    weight = _weight(inputs, labels, alpha)
    loss = sigmoid_focal_loss(z, torch.ones_like(z), -1, gamma)
    loss = torch.where(weight == 0, 0.0, weight * loss)
    if reduction == "none":
        return loss.to(inputs.dtype)
    return loss.sum() if reduction == "sum" else loss.sum() / count_rows(inputs, labels)


def count_rows(inputs: Tensor, labels: Tensor) -> Tensor:
    """The number of rows that are not ignored, at least 1: what "mean" divides by."""
    return _counted(inputs, labels).sum().clamp(min=1)


def softmax_focal_loss_backward(
    grad: Tensor,  # like labels, or 0-dim
    inputs: Tensor,
    labels: Tensor,
    alpha: float | Tensor = 0.25,
    gamma: float = 2.0,
) -> Tensor:
    """grad * d loss / d inputs = grad L'(z) dz/dx."""
    z, slope, _ = _margin(inputs, labels)
    d_z = grad * _derivative(1, z, inputs, labels, alpha, gamma)
    return (d_z[..., None] * slope).to(inputs.dtype)


def softmax_focal_loss_second_backward(
    d_output: Tensor,  # like inputs
    grad: Tensor,  # like labels, or 0-dim
    inputs: Tensor,
    labels: Tensor,
    alpha: float | Tensor = 0.25,
    gamma: float = 2.0,
) -> tuple[Tensor, Tensor]:
    """What d_output makes of softmax_focal_loss_backward's grad and inputs.

    With w = <d_output, dz/dx>: L'(z) w, and grad (L''(z) w dz/dx + L'(z) dw/dx).
    """
    z, slope, share = _margin(inputs, labels)
    d_output = wide(d_output)
    first = _derivative(1, z, inputs, labels, alpha, gamma)
    second = _derivative(2, z, inputs, labels, alpha, gamma)
    w = (d_output * slope).sum(dim=-1)
    d_w = -share * (d_output - (d_output * share).sum(dim=-1, keepdim=True))
    d_inputs = (grad * second * w)[..., None] * slope + (grad * first)[..., None] * d_w
    d_grad = first * w if grad.dim() > 0 else (first * w).sum()
    return d_grad.to(grad.dtype), d_inputs.to(inputs.dtype)


def _counted(inputs: Tensor, labels: Tensor) -> Tensor:
    return (labels >= 0) & (labels < inputs.shape[-1])


def _weight(inputs: Tensor, labels: Tensor, alpha: float | Tensor) -> Tensor:
    """alpha_t of each row, 0 if it is ignored."""
    classes, dtype = inputs.shape[-1], wide(inputs).dtype
    alpha = torch.as_tensor(alpha, dtype=dtype, device=inputs.device).expand(classes)
    table = torch.cat([torch.where(alpha < 0, 1.0, alpha), alpha.new_zeros(1)])
    return table[torch.where(_counted(inputs, labels), labels, classes)]


def _margin(inputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """z [...], dz/dx [..., K], and the softmax over the other classes [..., K], 0 at the label.

    With one class the label is certain: z is infinite. The logits of ignored rows are not looked
    at.
    """
    x = torch.where(_counted(inputs, labels)[..., None], wide(inputs), 0.0)
    at_label = torch.arange(x.shape[-1], device=x.device) == labels[..., None]
    if x.shape[-1] <= 1:
        return x.new_full(labels.shape, math.inf), at_label.to(x.dtype), torch.zeros_like(x)
    others = x.masked_fill(at_label, -math.inf)
    share = torch.softmax(others, dim=-1)
    # The greatest is taken off first, so that z is as exact as it is small.
    top = others.amax(dim=-1, keepdim=True)
    z = (x - top).masked_fill(~at_label, 0).sum(dim=-1) - (others - top).exp().sum(dim=-1).log()
    return z, at_label.to(x.dtype) - share, share


def _derivative(
    order: int, z: Tensor, inputs: Tensor, labels: Tensor, alpha: float | Tensor, gamma: float
) -> Tensor:
    """The first or second derivative of a row's loss with respect to z."""
    weight = _weight(inputs, labels, alpha)
    function = sigmoid_focal_loss_backward if order == 1 else sigmoid_focal_loss_second_backward
    value = function(torch.ones_like(z), z, torch.ones_like(z), -1, gamma)
    return torch.where(weight == 0, 0.0, weight * value)
