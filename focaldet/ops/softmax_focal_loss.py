"""Softmax focal loss (Lin et al. 2017, equation 5, with a softmax): classes that exclude each
other, as a background class and the rest do."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import reference
from .. import torch_ops as _ops
from . import _check
from .choices import REDUCTIONS, Reduction


def softmax_focal_loss(
    inputs: Tensor,  # [..., K]
    labels: Tensor,  # int64 [...]
    alpha: float | Tensor = 0.25,
    gamma: float = 2.0,
    reduction: Reduction = "none",
) -> Tensor:
    """alpha_t (1 - p_t)^gamma (-ln p_t) of each row, without a copy of the size of the logits.

    Args:
        inputs: logits, float16, bfloat16, float32 or float64; classes in the last dimension.
        labels: int64 of shape inputs.shape[:-1]: k in [0, K) is that class, -1 and -2 are ignored
            (no loss and no gradient): there is no background but a class of its own. On CUDA other
            labels count as ignored; on the CPU they raise.
        alpha: a factor in [0, 1], or a tensor [K] with one for each label; negative turns it off.
        gamma: focusing exponent, at least 0; 0 is the cross entropy.
        reduction: "none", "sum" or "mean"; "mean" divides by the rows that are not ignored.

    Returns:
        A tensor like `labels` in the dtype of `inputs`, or a scalar: float32 for the half types,
        else in the dtype of `inputs`. Computed in float32 from the label's margin over the other
        classes, never from 1 - p; sums do not depend on the number of threads.

    Raises:
        TypeError, ValueError, IndexError: saying what was expected and what came.

    Equivalent to:

    ```python
    ce = F.cross_entropy(inputs, labels, reduction="none")
    alpha * (1 - torch.exp(-ce)) ** gamma * ce
    ```
    """
    alpha, gamma, class_alpha = _arguments(inputs, labels, alpha, gamma)
    _check.choice(reduction, "reduction", REDUCTIONS)
    loss = _ops.softmax_focal_loss(inputs, labels, alpha, gamma, class_alpha)
    if reduction == "none":
        return loss.to(inputs.dtype)
    total = _sum(loss)
    return total if reduction == "sum" else total / reference.count_rows(inputs, labels)


def _arguments(
    inputs: Tensor, labels: Tensor, alpha: float | Tensor, gamma: float
) -> tuple[float, float, Tensor | None]:
    """Checks everything; alpha, gamma and class_alpha of the schema."""
    _check.tensor(inputs, "inputs")
    _check.tensor(labels, "labels", None, (torch.int64,))
    if inputs.dim() == 0 or labels.shape != inputs.shape[:-1]:
        raise ValueError(
            f"labels: expected shape {list(inputs.shape[:-1])} for logits {list(inputs.shape)}, "
            f"got {list(labels.shape)}"
        )
    classes = inputs.shape[-1]
    _check.labels_in_range(labels, "labels", classes, low=-2)
    alpha, class_alpha = _check.balance(alpha, classes)
    gamma = _check.number(gamma, "gamma", low=0)
    _check.no_gradient("softmax_focal_loss", alpha=class_alpha)
    _check.same_device("softmax_focal_loss", inputs=inputs, labels=labels, alpha=class_alpha)
    return alpha, gamma, class_alpha


def _sum(loss: Tensor) -> Tensor:
    """In blocks of 1024, in an order that the number of threads does not change: ATen splits a sum
    between threads if it has one result and more than 32,768 terms."""
    rows = loss.flatten()
    blocks = -(-rows.shape[0] // 1024)
    return F.pad(rows, (0, blocks * 1024 - rows.shape[0])).view(blocks, 1024).sum(1).sum()


def _wide(inputs: Tensor) -> torch.dtype:
    return torch.float64 if inputs.dtype == torch.float64 else torch.float32


# Fakes and derivatives. The gradient is an operator of its own, so that it has a derivative too.


@torch.library.register_fake("focaldet::softmax_focal_loss")
def _(inputs: Tensor, labels: Tensor, *_: Any) -> Tensor:
    return inputs.new_empty(labels.shape, dtype=_wide(inputs))


@torch.library.register_fake("focaldet::softmax_focal_loss_backward")
def _(grad: Tensor, inputs: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(inputs, memory_format=torch.contiguous_format)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    logits, labels, alpha, gamma, class_alpha = inputs
    ctx.save_for_backward(logits, labels, class_alpha)
    ctx.numbers = alpha, gamma


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    logits, labels, class_alpha = ctx.saved_tensors
    alpha, gamma = ctx.numbers
    d_logits = _ops.softmax_focal_loss_backward(grad, logits, labels, alpha, gamma, class_alpha)
    return d_logits, None, None, None, None


def _save_backward(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    grad, logits, labels, alpha, gamma, class_alpha = inputs
    ctx.save_for_backward(grad, logits, labels, class_alpha)
    ctx.numbers = alpha, gamma


def _second_backward(ctx: Any, d_output: Tensor) -> tuple[Tensor | None, ...]:
    grad, logits, labels, class_alpha = ctx.saved_tensors
    alpha, gamma = ctx.numbers
    d_grad, d_logits = reference.softmax_focal_loss_second_backward(
        d_output, grad, logits, labels, alpha if class_alpha is None else class_alpha, gamma
    )
    return d_grad, d_logits, None, None, None, None


torch.library.register_autograd("focaldet::softmax_focal_loss", _backward, setup_context=_save)
torch.library.register_autograd(
    "focaldet::softmax_focal_loss_backward", _second_backward, setup_context=_save_backward
)
