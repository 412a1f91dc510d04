"""Optimizer, learning-rate schedule and weight averaging."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

OPTIMIZERS = ("adamw", "sgd")
SCHEDULES = ("onecycle", "cosine", "step")

# Peak learning rate and weight decay where none is given. AdamW: the recipe of the README; SGD: the
# paper's 0.01 for 16 images, to be scaled by the batch size (Goyal et al. 2017).
_DEFAULTS = {"adamw": (5e-4, 1e-2), "sgd": (0.01 / 16, 1e-4)}


def make_optimizer(
    model: nn.Module, name: str, lr: float | None, weight_decay: float | None, batch_size: int
) -> torch.optim.Optimizer:
    """AdamW or SGD with momentum 0.9; biases and normalisation parameters are not decayed."""
    default_lr, default_decay = _DEFAULTS[name]
    if lr is None:
        lr = default_lr * batch_size if name == "sgd" else default_lr
    if weight_decay is None:
        weight_decay = default_decay
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    if name == "sgd":
        return torch.optim.SGD(groups, lr=lr, momentum=0.9, fused=True)
    # Fused: one pass over the weights instead of a dozen.
    return torch.optim.AdamW(groups, lr=lr, fused=True)


MILESTONES = (2 / 3, 8 / 9)  # the paper's 60k and 80k of 90k steps


def schedule_factor(
    name: str, step: int, total: int, warmup: int, milestones: Sequence[float] = MILESTONES
) -> float:
    """The learning rate of update `step` (from 0) of `total`, as a fraction of its peak.

    onecycle: half a cosine up from 1/25 over the first 30 % of the steps, then half a cosine down
    to nearly nothing (Smith and Topin 2017, with the figures of `torch.optim.lr_scheduler`); it
    warms up by itself, so `warmup` is not added. cosine: half a cosine down to nothing. step:
    divided by 10 after each of `milestones`, which are fractions of the steps. The last two start
    with `warmup` steps of a line up from 1/1000.

    A function of the step and nothing else: resuming needs no state of it.
    """
    if name == "onecycle":
        rise = 0.3 * total
        if step < rise:
            return _half_cosine(1 / 25, 1.0, step / rise)
        return _half_cosine(1.0, 1 / 25e4, (step - rise) / max(1.0, total - 1 - rise))
    if step < warmup:
        return 1e-3 + (1 - 1e-3) * step / warmup
    if name == "cosine":
        return _half_cosine(1.0, 0.0, (step - warmup) / max(1, total - warmup))
    return 0.1 ** sum(step >= milestone * total for milestone in milestones)


def _half_cosine(start: float, end: float, position: float) -> float:
    return end + (start - end) * 0.5 * (1 + math.cos(math.pi * min(1.0, position)))


class Average:
    """Exponential moving average of a model's weights and normalisation statistics.

    The decay of update n is min(decay, (1 + n) / (10 + n)): a short run is not dominated by its
    start.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.updates: int = 0
        self.weights: dict[str, Tensor] = {
            name: t.detach().clone() for name, t in model.state_dict().items()
        }

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        for name, value in model.state_dict().items():
            average = self.weights[name]
            if average.is_floating_point():
                average.lerp_(value, 1 - decay)
            else:  # the batch counter of BatchNorm
                average.copy_(value)

    def load(self, weights: dict[str, Tensor], updates: int) -> None:
        """Goes on from averaged weights and the number of updates in them."""
        self.updates = updates
        for name, value in weights.items():
            self.weights[name].copy_(value)


def load_optimizer_state(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """`optimizer.load_state_dict` for a state read from a checkpoint.

    JSON turned the parameter numbers into strings, and the tensors came back contiguous: each is
    laid out like its parameter again, or the update would take another, slower path.
    """
    state = {**state, "state": {int(n): entry for n, entry in state["state"].items()}}
    optimizer.load_state_dict(state)
    for parameter, entry in optimizer.state.items():
        for key, value in entry.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape:
                entry[key] = torch.empty_like(parameter).copy_(value)
