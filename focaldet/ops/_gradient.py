"""Gradients that were computed together with the loss, and what becomes of them in the backward."""

from __future__ import annotations

from torch import Tensor

from . import _check


def times(gradient: Tensor, factor: Tensor) -> Tensor:
    """gradient * factor, never in place: a second backward finds the gradient as it was.

    A factor of 1 on the CPU, as in loss.backward(), returns the gradient itself, which saves a pass
    and memory of its size. Elsewhere the number cannot be looked at without waiting for a device.
    """
    if _check.readable(factor) and factor.device.type == "cpu" and factor.item() == 1:
        return gradient
    return (gradient * factor).to(gradient.dtype)
