"""Gradients that were computed together with the loss, and what becomes of them in the backward."""

from __future__ import annotations

from torch import Tensor

from . import _check


def times(gradient: Tensor, factor: Tensor | None, done: Tensor | None = None) -> Tensor | None:
    """gradient * factor / done, never in place: a second backward finds the gradient as it was.

    `done` is the factor that it has been multiplied with already. Where both are equal (`done` is 1
    where it is None, as the factor is in loss.backward()), the gradient itself is returned, which
    saves a pass and memory of its size. Numbers on a GPU cannot be looked at without waiting for
    it: a `done` there is trusted to be the factor.
    """
    if factor is None:
        return None
    if _check.readable(factor):
        if factor.item() == (1 if done is None else done.item()):
            return gradient
    elif done is not None:
        return gradient
    return (gradient * (factor if done is None else factor / done)).to(gradient.dtype)
