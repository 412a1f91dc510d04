"""Figure 4's numbers: histograms against exact sorting, and a data set against its images."""

from __future__ import annotations

from pathlib import Path

import hypothesis
import numpy as np
import pytest
import torch
from hypothesis import strategies as st
from tiny_runs import dataset, tiny_model
from torch import Tensor

from focaldet.anatomy import anatomy, class_losses, cumulative_share
from focaldet.data import CocoDataset, eval_transform, generate_scenes
from focaldet.errors import UserError
from focaldet.experiments.cumulative import (
    HARDEST,
    POINTS,
    LossHistogram,
    Numbers,
    cumulative_losses,
)

ERROR = 2**-9  # of a share: see LossHistogram
FRACTIONS = [i / 100 for i in range(101)]
LABELS = [0, 1, 2]


def histogram(*parts: Tensor) -> LossHistogram:
    found = LossHistogram()
    for losses in parts:
        found.add(losses)
    return found


def assert_near(found: list[float], losses: Tensor) -> None:
    """At most above the exact curve, by no more than the bound; 1e-12 is rounding."""
    exact = cumulative_share(losses, len(FRACTIONS)).numpy()
    excess = np.asarray(found) - exact
    assert excess.min() >= -1e-12 and excess.max() <= ERROR + 1e-12


@pytest.mark.parametrize("power", [1, 8, 30])
def test_a_curve_is_within_the_bound(power: int) -> None:
    """Of losses over ever more orders of magnitude, in parts."""
    losses = torch.rand(10_000, generator=torch.Generator().manual_seed(power)) ** power
    assert_near(histogram(losses[:1], losses[1:4000], losses[4000:]).share(FRACTIONS), losses)


def test_the_bound_is_met_in_one_bin() -> None:
    """The worst case: half of the losses at the lower edge of a bin, half just below the upper."""
    losses = torch.tensor([1.0, 1 + 127 / 128 / 128] * 50)
    found = histogram(losses)
    assert len(found.counts.nonzero()) == 1
    assert_near(found.share(FRACTIONS), losses)
    exact = cumulative_share(losses, len(FRACTIONS))[50].item()
    assert found.share([0.5])[0] - exact > 0.9 * ERROR


@hypothesis.given(st.lists(st.floats(0, 2.0**100, width=32), max_size=40))
def test_any_losses(values: list[float]) -> None:
    losses = torch.tensor(values, dtype=torch.float32)
    # Below the smallest normal number bins are wider; such losses are 0 for all purposes.
    losses[losses < 2**-126] = 0
    assert_near(histogram(losses).share(FRACTIONS), losses)


def test_equal_losses_have_equal_shares() -> None:
    found = histogram(torch.full((1000,), 0.3))
    assert found.share([0.25])[0] == pytest.approx(0.25)
    assert found.hardest(0.01) == pytest.approx(0.01)


def test_nothing_to_share() -> None:
    for losses in (torch.zeros(0), torch.zeros(9), -torch.zeros(9)):
        found = histogram(losses)
        assert len(found) == len(losses)
        assert found.share([0.0, 0.5, 1.0]) == [0, 0, 0] and found.hardest(0.1) == 0


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scenes")
    generate_scenes(folder, images=3, seed=1, size=64, objects=(3, 5))
    return folder


def test_a_data_set_is_all_of_its_images(scenes: Path) -> None:
    """Against the losses of every anchor, kept and sorted."""
    model, data = tiny_model(alpha=0.4).eval(), dataset(scenes, training=False)
    numbers = cumulative_losses(model, data, LABELS, (0.0, 2.0))
    found = [anatomy(model, *item) for item in (data[i] for i in range(len(data)))]
    assert (numbers["images"], numbers["alpha"]) == (3, 0.4)
    for row in numbers["gammas"]:
        losses = torch.cat([class_losses(each, gamma=row["gamma"]) for each in found])
        labels = torch.cat([each.labels for each in found])
        for kind, mask in (("foreground", labels >= 0), ("background", labels == -1)):
            own, part = row[kind], losses[mask]
            assert numbers["anchors"][kind] == len(part) > 0
            # Of a copy with BatchNorm folded, and so up to rounding.
            assert own["mean_loss"] == pytest.approx(part.double().mean().item(), rel=1e-4)
            exact = cumulative_share(part, POINTS).numpy()
            assert np.abs(np.asarray(own["curve"]) - exact).max() < ERROR + 1e-4
            for fraction in HARDEST:
                share = 1 - np.interp(1 - fraction, np.linspace(0, 1, POINTS), exact)
                assert own["share_of_hardest"][f"{fraction:g}"] == pytest.approx(share, abs=5e-3)


def test_the_first_images_alone(scenes: Path) -> None:
    model, data = tiny_model().eval(), dataset(scenes, training=False)
    first = cumulative_losses(model, data, LABELS, (2.0,), limit=1)
    every = cumulative_losses(model, data, LABELS, (2.0,), limit=100)
    assert (first["images"], every["images"]) == (1, 3)
    assert first["anchors"]["background"] < every["anchors"]["background"]


def test_images_are_enlarged_once(scenes: Path) -> None:
    """Those of 64 pixels by a model for 256 that enlarges twice at most: to 128."""

    def numbers(size: int, most: float | None) -> Numbers:
        model = tiny_model(min_size=size, max_size=size, max_scale=most).eval()
        transform = eval_transform(size, max_scale=most)
        data = CocoDataset(scenes / "instances.json", scenes / "images", transform=transform)
        return cumulative_losses(model, data, LABELS)

    assert numbers(256, 2.0) == numbers(128, None)


def test_labels_are_the_models(scenes: Path) -> None:
    """A model whose classes are in another order has the losses of its own."""
    model, data = tiny_model().eval(), dataset(scenes, training=False)
    with torch.no_grad():  # class 1 scores high everywhere
        model.head.classification_head.cls_logits.bias[1::3] += 4
    curves = [
        cumulative_losses(model, data, labels, (0.0,))["gammas"][0]["foreground"]["mean_loss"]
        for labels in (LABELS, [1, 0, 2])
    ]
    assert curves[0] != pytest.approx(curves[1], rel=1e-3)


def test_what_has_no_curve(scenes: Path) -> None:
    data = dataset(scenes, training=False)
    model = tiny_model(fg_iou_thresh=1.0, bg_iou_thresh=1.0, low_quality="none").eval()
    with pytest.raises(UserError, match="none of the anchors of 3 images is foreground"):
        cumulative_losses(model, data, LABELS)
    model = tiny_model().eval()
    with torch.no_grad():
        model.head.classification_head.cls_logits.bias.fill_(float("nan"))
    with pytest.raises(UserError, match="image 1: its losses are not finite"):
        cumulative_losses(model, data, LABELS)
