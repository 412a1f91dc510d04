"""Figure 1: focal loss against the probability of the true class."""

from __future__ import annotations

import torch
from matplotlib.figure import Figure
from torch import Tensor

from ...ops import sigmoid_focal_loss
from .style import COLOURS, DASHES, panels

GAMMAS = (0.0, 0.5, 1.0, 2.0, 5.0)


def losses(gamma: float, probabilities: Tensor) -> Tensor:  # both [n]
    """-(1 - p)^gamma log p, as the operator computes it."""
    labels = torch.zeros(len(probabilities), dtype=torch.int64)
    logits = probabilities.logit()[:, None]  # of one class, the true one
    return sigmoid_focal_loss(logits, labels, alpha=-1.0, gamma=gamma)[:, 0]


def figure() -> Figure:
    drawn, (axes,) = panels(r"$\mathrm{FL}(p) = -(1 - p)^\gamma\,\log p$", width=5.0, height=3.6)
    p = torch.linspace(0, 1, 402, dtype=torch.float64)[1:-1]
    for gamma, colour, dashes in zip(GAMMAS, COLOURS, DASHES, strict=True):
        name = f"γ = {gamma:g}{' (cross entropy)' if gamma == 0 else ''}"
        axes.plot(p.numpy(), losses(gamma, p).numpy(), color=colour, linestyle=dashes, label=name)
    axes.axvspan(0.5, 1, color="#f1f1f1", zorder=0)
    axes.text(0.75, 2.5, "well-classified\nexamples", ha="center")
    axes.set(xlabel="p, probability of the true class", ylabel="loss", xlim=(0, 1), ylim=(0, 5))
    axes.legend()
    return drawn
