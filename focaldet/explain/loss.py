"""Which anchors carry the classification loss: Figure 4 of Lin et al. 2017, on one image."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..anatomy import Anatomy, class_losses, cumulative_share

# A background anchor is easy while the model says so of each class: p_t > .5 (Figure 1 of the
# paper calls such examples well classified).
EASY = 0.5
POINTS = 201  # of a curve


@dataclass(frozen=True)
class Group:
    name: str
    anchors: int
    shares: list[float]  # of the whole loss, for each gamma


@dataclass(frozen=True)
class Carried:
    """The classification loss of an image."""

    gammas: tuple[float, float]  # the model's own, and one to compare it with
    losses: Tensor  # [N]: with the first
    groups: list[Group]
    top: tuple[float, float]  # of the background's loss, the share of its highest 1 %
    foreground: list[Tensor]  # float64 [POINTS]: cumulative shares, for each gamma
    background: list[Tensor]
    hardest: Tensor  # int64 [n]: anchors by falling loss


def carried(anatomy: Anatomy, hardest: int = 10) -> Carried:
    """Beside cross entropy, gamma 0; a model of cross entropy, beside the paper's gamma 2."""
    gammas = (anatomy.gamma, 0.0 if anatomy.gamma else 2.0)
    losses = [class_losses(anatomy, gamma=gamma) for gamma in gammas]
    foreground, background = anatomy.labels >= 0, anatomy.labels == -1
    easy = background & (anatomy.logits.sigmoid().amax(1) < EASY)
    kinds = {
        "foreground": foreground,
        "easy background": easy,
        "hard background": background & ~easy,
        "ignored": anatomy.labels == -2,
    }
    return Carried(
        gammas=gammas,
        losses=losses[0],
        groups=[
            Group(name, int(kind.sum()), [_share(loss[kind], loss) for loss in losses])
            for name, kind in kinds.items()
        ],
        top=(_top(losses[0][background]), _top(losses[1][background])),
        foreground=[cumulative_share(loss[foreground], POINTS) for loss in losses],
        background=[cumulative_share(loss[background], POINTS) for loss in losses],
        hardest=torch.topk(losses[0], min(hardest, len(losses[0]))).indices,
    )


def _share(part: Tensor, whole: Tensor) -> float:
    total = whole.double().sum().item()
    return part.double().sum().item() / total if total else 0.0


def _top(losses: Tensor) -> float:
    """The share of the highest hundredth."""
    return 1 - cumulative_share(losses, 101)[-2].item() if losses.any() else 0.0
