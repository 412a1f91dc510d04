"""Sigmoid focal loss (Lin et al. 2017), drop-in for torchvision's, from labels or dense targets."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .. import reference
from .. import torch_ops as _ops
from . import _check
from ._gradient import times
from .choices import REDUCTIONS, Reduction

# alpha, gamma, class_alpha, class_weight and label_smoothing of the schemas
_Arguments = tuple[float, float, Tensor | None, Tensor | None, float]


def sigmoid_focal_loss(
    inputs: Tensor,  # [..., K]
    targets: Tensor,  # [..., K], or int64 [...]
    alpha: float | Tensor = 0.25,
    gamma: float = 2.0,
    reduction: Reduction = "none",
    *,
    class_weight: Tensor | None = None,  # [K]
    label_smoothing: float = 0.0,
) -> Tensor:
    """alpha_t (1 - p_t)^gamma CE(p, t) of each logit, without a copy of the size of the logits.

    With a reduction, the CPU computes loss and gradient in one pass over the logits and keeps the
    gradient until the backward; CUDA reads them once for each. With "none", once for each, always.

    Args:
        inputs: logits, float16, bfloat16, float32 or float64; classes in the last dimension.
        targets: floating, of the shape of `inputs`, hard or soft, in [0, 1]; or int64 labels of
            shape inputs.shape[:-1]: k in [0, K) is that class, -1 background, -2 ignored (no loss
            and no gradient). On CUDA other labels count as ignored; on the CPU they raise.
        alpha: weight of the positives against 1 - alpha for the negatives, a number or a tensor
            [K]; negative turns it off. gamma = 0 is (balanced) cross entropy.
        gamma: focusing exponent, at least 0.
        reduction: "none", "sum" or "mean"; "mean" divides by the elements that are not ignored.
        class_weight: factor by class, [K].
        label_smoothing: e in [0, 1] turns a target t into t (1 - e) + e / 2.

    Returns:
        A tensor like `inputs`, or a scalar: float32 for the half types (a sum of float16 losses
        passes 65504 at once), else in the dtype of `inputs`. Computed in float32 from sigma(x) and
        sigma(-x), never 1 - p; sums do not depend on the number of threads.

    Raises:
        TypeError, ValueError, IndexError: saying what was expected and what came.

    Equivalent to:

    ```python
    p = torch.sigmoid(inputs)
    ce = F.binary_cross_entropy_with_logits(inputs, targets, reduction="none")
    p_t = p * targets + (1 - p) * (1 - targets)
    (alpha * targets + (1 - alpha) * (1 - targets)) * (1 - p_t) ** gamma * ce
    ```
    """
    arguments = _arguments(inputs, targets, alpha, gamma, class_weight, label_smoothing)
    return _reduced(inputs, targets, reduction, arguments, "focal")


def quality_focal_loss(
    inputs: Tensor,  # [..., K]
    targets: Tensor,  # [..., K]
    beta: float = 2.0,
    reduction: Reduction = "none",
) -> Tensor:
    """|sigma(x) - y|^beta BCE(x, y): Li et al. 2020, "Generalized Focal Loss", equation 5.

    The target y in [0, 1] is a quality, as a rule the IoU of the predicted box for the class of an
    anchor, and 0 elsewhere. Arguments, results and errors as `sigmoid_focal_loss`, with
    beta >= 0 for gamma and floating targets of the shape of the logits.

    Equivalent to:

    ```python
    ce = F.binary_cross_entropy_with_logits(inputs, targets, reduction="none")
    (inputs.sigmoid() - targets).abs() ** beta * ce
    ```
    """
    _check.tensor(targets, "targets")
    arguments = _arguments(inputs, targets, -1.0, _check.number(beta, "beta", low=0), None, 0.0)
    return _reduced(inputs, targets, reduction, arguments, "quality")


def varifocal_loss(
    inputs: Tensor,  # [..., K]
    targets: Tensor,  # [..., K]
    alpha: float = 0.75,
    gamma: float = 2.0,
    reduction: Reduction = "none",
) -> Tensor:
    """y BCE(x, y) where y > 0, alpha sigma(x)^gamma BCE(x, 0) elsewhere: Zhang et al. 2021,
    "VarifocalNet", equation 2.

    Only negatives are scaled down; positives are weighed by their quality y in (0, 1]. Arguments,
    results and errors as `sigmoid_focal_loss`, with floating targets of the shape of the logits and
    alpha a number.

    Equivalent to:

    ```python
    weight = torch.where(targets > 0, targets, alpha * inputs.sigmoid() ** gamma)
    weight * F.binary_cross_entropy_with_logits(inputs, targets, reduction="none")
    ```
    """
    _check.tensor(targets, "targets")
    arguments = _arguments(inputs, targets, _check.number(alpha, "alpha"), gamma, None, 0.0)
    return _reduced(inputs, targets, reduction, arguments, "varifocal")


def _reduced(
    inputs: Tensor, targets: Tensor, reduction: Reduction, arguments: _Arguments, form: str
) -> Tensor:
    _check.choice(reduction, "reduction", REDUCTIONS)
    if reduction == "none":
        return _ops.sigmoid_focal_loss(inputs, targets, *arguments, form)
    divisor = reference.count_targets(inputs, targets) if reduction == "mean" else None
    if inputs.device.type == "cpu" and torch.is_grad_enabled() and inputs.requires_grad:
        both = _ops.sigmoid_focal_loss_sum_and_gradient(inputs, targets, *arguments, form, divisor)
        return both[0]
    total = _ops.sigmoid_focal_loss_sum(inputs, targets, *arguments, form)
    return total if divisor is None else total / divisor


def _arguments(
    inputs: Tensor,
    targets: Tensor,
    alpha: float | Tensor,
    gamma: float,
    class_weight: Tensor | None,
    label_smoothing: float,
) -> _Arguments:
    """Checks everything."""
    _check.tensor(inputs, "inputs")
    _check.tensor(targets, "targets", None, (*_check.FLOATING, torch.int64))
    labelled = not targets.is_floating_point()
    expected = inputs.shape[:-1] if labelled else inputs.shape
    if targets.shape != expected or (labelled and inputs.dim() == 0):
        kind = "labels" if labelled else "targets"
        raise ValueError(
            f"targets: expected {kind} of shape {list(expected)} for logits {list(inputs.shape)}, "
            f"got {list(targets.shape)}"
        )
    classes = inputs.shape[-1] if inputs.dim() > 0 else 1
    if labelled:
        _check.labels_in_range(targets, "targets", classes, low=-2)
    alpha, class_alpha = _check.balance(alpha, classes)
    gamma = _check.number(gamma, "gamma", low=0)
    if class_weight is not None:
        _check.tensor(class_weight, "class_weight", (classes,))
    label_smoothing = _check.number(label_smoothing, "label_smoothing", 0, 1)
    _check.no_gradient(
        "sigmoid_focal_loss", targets=targets, alpha=class_alpha, class_weight=class_weight
    )
    _check.same_device(
        "sigmoid_focal_loss",
        inputs=inputs,
        targets=targets,
        alpha=class_alpha,
        class_weight=class_weight,
    )
    return alpha, gamma, class_alpha, class_weight, label_smoothing


# Fakes and derivatives. The gradient is an operator of its own, so that it has a derivative too.


@torch.library.register_fake("focaldet::sigmoid_focal_loss")
def _(inputs: Tensor, targets: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(inputs, memory_format=torch.contiguous_format)


@torch.library.register_fake("focaldet::sigmoid_focal_loss_sum")
def _(inputs: Tensor, targets: Tensor, *_: Any) -> Tensor:
    dtype = torch.float64 if inputs.dtype == torch.float64 else torch.float32
    return inputs.new_empty((), dtype=dtype)


@torch.library.register_fake("focaldet::sigmoid_focal_loss_sum_and_gradient")
def _(inputs: Tensor, targets: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    dtype = torch.float64 if inputs.dtype == torch.float64 else torch.float32
    gradient = torch.empty_like(inputs, memory_format=torch.contiguous_format)
    return inputs.new_empty((), dtype=dtype), gradient


@torch.library.register_fake("focaldet::sigmoid_focal_loss_backward")
def _(grad: Tensor, inputs: Tensor, targets: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(inputs, memory_format=torch.contiguous_format)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    logits, targets, alpha, gamma, class_alpha, class_weight, smoothing, form = inputs
    ctx.save_for_backward(logits, targets, class_alpha, class_weight)
    ctx.settings = alpha, gamma, smoothing, form


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    logits, targets, class_alpha, class_weight = ctx.saved_tensors
    alpha, gamma, smoothing, form = ctx.settings
    if grad.dim() > 0 and grad.numel() > 0 and not any(grad.stride()):
        # The gradient of a sum taken outside: one number, not a tensor of the size of the logits.
        wide = torch.float64 if logits.dtype == torch.float64 else torch.float32
        grad = grad[(0,) * grad.dim()].to(wide)
    d_logits = _ops.sigmoid_focal_loss_backward(
        grad, logits, targets, alpha, gamma, class_alpha, class_weight, smoothing, form
    )
    return d_logits, *[None] * 7


for _name in ("sigmoid_focal_loss", "sigmoid_focal_loss_sum"):
    torch.library.register_autograd(f"focaldet::{_name}", _backward, setup_context=_save)


def _save_gradient(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    *first, divisor = inputs
    _save(ctx, tuple(first), output[0])
    ctx.save_for_backward(*ctx.to_save, divisor, output[1])
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)


def _saved_gradient(ctx: Any, grad: Tensor | None, _: None) -> tuple[Tensor | None, ...]:
    *inputs, divisor, gradient = ctx.saved_tensors
    if grad is None:
        d_logits = None
    elif torch.is_grad_enabled():  # to be differentiated again: computed anew
        logits, targets, class_alpha, class_weight = inputs
        alpha, gamma, smoothing, form = ctx.settings
        grad = grad if divisor is None else grad / divisor
        d_logits = _ops.sigmoid_focal_loss_backward(
            grad, logits, targets, alpha, gamma, class_alpha, class_weight, smoothing, form
        )
    else:
        d_logits = times(gradient, grad)
    return d_logits, *[None] * 8


torch.library.register_autograd(
    "focaldet::sigmoid_focal_loss_sum_and_gradient", _saved_gradient, setup_context=_save_gradient
)


def _save_backward(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    grad, logits, targets, alpha, gamma, class_alpha, class_weight, smoothing, form = inputs
    ctx.save_for_backward(grad, logits, targets, class_alpha, class_weight)
    ctx.settings = alpha, gamma, smoothing, form


def _second_backward(ctx: Any, d_output: Tensor) -> tuple[Tensor | None, ...]:
    grad, logits, targets, class_alpha, class_weight = ctx.saved_tensors
    alpha, gamma, smoothing, form = ctx.settings
    first = _ops.sigmoid_focal_loss_backward(
        d_output, logits, targets, alpha, gamma, class_alpha, class_weight, smoothing, form
    )
    d_grad = first.to(grad.dtype) if grad.dim() == logits.dim() else first.sum(dtype=grad.dtype)
    balance = alpha if class_alpha is None else class_alpha
    d_logits = reference.sigmoid_focal_loss_second_backward(
        grad * d_output, logits, targets, balance, gamma, class_weight, smoothing, form
    )
    return d_grad, d_logits, *[None] * 7


torch.library.register_autograd(
    "focaldet::sigmoid_focal_loss_backward", _second_backward, setup_context=_save_backward
)
