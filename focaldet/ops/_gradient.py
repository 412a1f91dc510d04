"""Gradients that were computed together with the loss, and what becomes of them in the backward."""

from __future__ import annotations

import torch
from torch import Tensor

from . import _check


def times(gradient: Tensor, factor: Tensor | None, done: Tensor | None = None) -> Tensor | None:
    """gradient * factor / done, never in place: a second backward finds the gradient as it was.
    Where there may be one (retain_graph=True) it is a copy that is handed out, for a leaf makes it
    its own, to add to and to be zeroed.

    `done` is the factor that it has been multiplied with already. Where both are equal (`done` is 1
    where it is None, as the factor is in loss.backward()), the gradient itself is returned, which
    saves a pass and memory of its size. Numbers on a GPU cannot be looked at without waiting for
    it: a `done` there is trusted to be the factor.
    """
    if factor is None:
        return None
    if _check.readable(factor):
        if factor.item() == (1 if done is None else done.item()):
            return _handed_out(gradient)
    elif done is not None:
        return _handed_out(gradient)
    # Not times a 16-bit factor, as torch would: 65536, where loss scales begin, is none in float16.
    factor = factor if done is None else factor / done
    return (gradient.to(factor.dtype) * factor).to(gradient.dtype)


def _handed_out(gradient: Tensor) -> Tensor:
    kept = not torch.compiler.is_compiling() and (
        torch._C._autograd._get_current_graph_task_keep_graph()
    )
    return gradient.clone() if kept else gradient
