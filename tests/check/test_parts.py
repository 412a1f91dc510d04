"""What the checks are made of, against the plain way to compute it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from focaldet import AnchorGrid
from focaldet.check import Detector, lookalikes
from focaldet.check.anchors import suggest
from focaldet.check.lookalikes import alike
from focaldet.check.pairs import overlapping
from focaldet.data import Resize
from focaldet.models import RetinaNet
from focaldet.ops import box_iou, generate_anchors

GRIDS = {
    "torchvision": AnchorGrid.torchvision([8, 16, 32, 64, 128]),
    "paper": AnchorGrid.paper(),
    "mmdetection": AnchorGrid.mmdetection(),
}


def boxes(n: int, side: float, low: float = 2, high: float = 60) -> np.ndarray:
    rng = np.random.default_rng(n)
    corner, size = rng.uniform(0, side, (n, 2)), rng.uniform(low, high, (n, 2))
    return np.concatenate([corner, np.minimum(corner + size, side + 1)], axis=1)


@pytest.mark.parametrize("name", GRIDS)
def test_the_best_iou_is_that_with_all_anchors(name: str) -> None:
    detector = Detector(Resize(320, 320), GRIDS[name])
    corners = boxes(300, 200)
    sizes = np.array([[200, 210], [320, 240]])[np.arange(300) % 2]
    best = detector.best_iou(corners, sizes)
    for place in (0, 1):
        anchors = generate_anchors(detector.anchors(*sizes[place].tolist()))
        plain = box_iou(torch.from_numpy(corners[place::2]).float(), anchors).amax(1)
        np.testing.assert_allclose(best[place::2], plain.numpy(), atol=1e-5)


@pytest.mark.parametrize("size", [(64, 64), (200, 310), (33, 97)])
@pytest.mark.parametrize("finest", [2, 3])
def test_the_grid_is_laid_as_the_model_does(size: tuple[int, int], finest: int) -> None:
    grid = AnchorGrid.torchvision([8, 16, 32, 64, 128])
    model = RetinaNet(1, "resnet18", width=8, fpn_channels=8, head_depth=1, anchor_grid=grid,
                      finest_level=finest, min_size=min(size), max_size=max(size))  # fmt: skip
    batch = model.transform.images([torch.zeros(3, *size)]).batch
    with torch.no_grad():
        maps = model.features(batch)
    strides = tuple(2 ** (finest + level) for level in range(5))
    ours = Detector(Resize(min(size), max(size)), grid, strides).anchors(*size)
    logits: Any = maps[0]
    assert ours.feature_sizes == tuple(tuple(level.shape[-2:]) for level in logits)


@pytest.mark.parametrize("least", [0.3, 0.8])
def test_overlapping_pairs_are_those_of_all_pairs(least: float) -> None:
    corners = boxes(400, 150)
    groups = np.random.default_rng(1).integers(0, 5, 400)
    found = overlapping(corners, groups, least)
    areas = (corners[:, 2:] - corners[:, :2]).prod(1)
    ends = np.minimum(corners[:, None, 2:], corners[None, :, 2:])
    shared = (ends - np.maximum(corners[:, None, :2], corners[None, :, :2])).clip(0).prod(2)
    covered = shared / np.minimum(areas[:, None], areas[None])
    wanted = np.triu((groups[:, None] == groups[None]) & (covered >= least), 1)
    assert {*map(tuple, np.argwhere(wanted).tolist())} == {
        tuple(sorted(pair))
        for pair in zip(found.first.tolist(), found.second.tolist(), strict=True)
    }
    iou = shared / (areas[:, None] + areas[None] - shared)
    np.testing.assert_allclose(found.iou, iou[found.first, found.second])
    assert (areas[found.first] >= areas[found.second]).all()
    assert len(overlapping(corners[:0], groups[:0]).first) == 0


def test_suggested_anchors_are_of_the_boxes_size_and_shape() -> None:
    grid = AnchorGrid.torchvision([32, 64, 128, 256, 512])
    detector = Detector(Resize(320, 320), grid)
    rng = np.random.default_rng(0)
    corner = rng.uniform(0, 280, (200, 2))
    corners = np.concatenate([corner, corner + rng.uniform(14, 20, (200, 2))], axis=1)
    sizes = np.full((200, 2), 320)
    found = suggest(detector, corners, sizes)
    assert (
        12 <= found.size <= 16 and found.recall > (detector.best_iou(corners, sizes) >= 0.5).mean()
    )
    wide = np.concatenate([corner[:, :1], corner[:, 1:], corner + [40, 10]], axis=1)
    assert suggest(detector, wide, sizes).aspect_ratios[0] < 0.5  # height / width is 1/4


def test_what_looks_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    images = rng.uniform(0, 255, (50, 256)).astype(np.float32)
    images[7] = 0.5 * images[3] + 20 + rng.normal(0, 3, 256)  # darker, and a little noisy
    images[8:10] = 40  # of one colour
    groups = ["train"] * 30 + ["val"] * 20
    assert [pair[:2] for pair in alike(images, groups)] == [(3, 7)]
    assert alike(images[:0], []) == alike(images[:1], ["train"]) == []

    images[20:] = images[20] + np.arange(30)[:, None] * rng.normal(0, 0.1, 256)  # a film
    monkeypatch.setattr(lookalikes, "BLOCK", 7)
    pairs = [pair[:2] for pair in alike(images, groups)]
    assert sorted(pairs[:20]) == [(29, val) for val in range(30, 50)]  # a leak each, told first
    assert sorted(pairs[20:]) == [(3, 7), *[(i - 1, i) for i in range(21, 50) if i != 30]]


def test_alike_is_as_all_correlations_say() -> None:
    rng = np.random.default_rng(1)
    images = (
        rng.normal(0, 60, (4, 64))[rng.integers(0, 4, 40)] + rng.normal(0, 9, (40, 64))
    ).astype(np.float32)
    groups = rng.integers(0, 3, 40).tolist()
    every = np.corrcoef(images)
    wanted = set()
    for i in range(40):
        for own in (True, False):
            earlier = [j for j in range(i) if (groups[j] == groups[i]) == own]
            best = max(earlier, key=lambda j: every[i, j], default=None)
            if best is not None and every[i, best] >= 0.97:
                wanted.add((best, i))
    assert {pair[:2] for pair in alike(images, groups)} == wanted and len(wanted) > 20
