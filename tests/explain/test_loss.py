"""The groups of anchors share the loss; the curves and the hardest anchors are theirs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from looks import look

from focaldet.anatomy import Anatomy, class_losses
from focaldet.explain.loss import POINTS, carried


@pytest.fixture
def anatomy() -> Anatomy:
    """200 background anchors, 3 of them hard; 10 of foreground, 5 ignored."""
    box = [0.0, 0, 10, 10]
    anchors = [(box, -1)] * 200 + [(box, 0)] * 10 + [(box, -2)] * 5
    scores = [(i + 1) / 500 for i in range(197)] + [0.7, 0.9, 0.8] + [0.2] * 10 + [0.99] * 5
    return look([(box, 1)], anchors=anchors, decoded=[(box, s, 1) for s in scores]).anatomy


def test_groups_share_the_loss(anatomy: Anatomy) -> None:
    found = carried(anatomy)
    assert found.gammas == (2.0, 0.0)
    assert {group.name: group.anchors for group in found.groups} == {
        "foreground": 10,
        "easy background": 197,
        "hard background": 3,
        "ignored": 5,
    }
    for which, gamma in enumerate(found.gammas):
        losses = class_losses(anatomy, gamma=gamma).double().numpy()
        shares = [losses[200:210].sum(), losses[:197].sum(), losses[197:200].sum(), 0]
        assert [g.shares[which] for g in found.groups] == pytest.approx(shares / losses.sum())


def test_the_top_hundredth_of_the_background(anatomy: Anatomy) -> None:
    found = carried(anatomy)
    for top, gamma in zip(found.top, found.gammas, strict=True):
        losses = np.sort(class_losses(anatomy, gamma=gamma)[:200].double().numpy())
        assert top == pytest.approx(losses[-2:].sum() / losses.sum())


def test_curves_end_at_one_and_the_focal_losses_rises_later(anatomy: Anatomy) -> None:
    found = carried(anatomy)
    for curve in (*found.foreground, *found.background):
        assert len(curve) == POINTS and curve[0] == 0 and curve[-1] == pytest.approx(1)
    focal, plain = found.background
    assert (focal <= plain + 1e-9).all() and focal[100] < plain[100] / 2


def test_the_hardest(anatomy: Anatomy) -> None:
    assert carried(anatomy).hardest.tolist()[:2] == [198, 199]
    assert len(carried(anatomy, 4).hardest) == 4


def test_a_model_of_cross_entropy_is_compared_with_gamma_2(anatomy: Anatomy) -> None:
    assert carried(replace(anatomy, gamma=0.0)).gammas == (0.0, 2.0)


def test_no_background_has_no_share() -> None:
    box = [0.0, 0, 10, 10]
    found = carried(look([(box, 1)], anchors=[(box, 0)], decoded=[(box, 0.3, 1)]).anatomy)
    assert found.top == (0.0, 0.0) and not found.background[0].any()
    assert torch.isfinite(found.losses).all()
