"""nms of so many boxes that they are found by place and size, and by several threads: sizes,
places and thresholds that such an index could get wrong, against the reference."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from focaldet import reference
from focaldet.ops import batched_nms, nms, nms_match, nms_padded

COUNT = 800
THRESHOLDS = (0.0, 0.05, 0.124, 0.126, 0.3, 0.5, 0.7, 0.95, 1.0)


def at(center: Tensor, size: Tensor) -> Tensor:
    return torch.cat([center - size / 2, center + size / 2], dim=1)


def spread(n: int, low: float, high: float) -> Tensor:
    """[n, 2], as many small numbers as large ones."""
    return low * (high / low) ** torch.rand(n, 2)


def outliers(n: int) -> Tensor:
    boxes = at(torch.rand(n, 2) * 300, spread(n, 8, 64))
    boxes[::100] *= 1e15
    boxes[1::100] -= 3e7
    return boxes


def degenerate(n: int) -> Tensor:
    boxes = at(torch.rand(n, 2) * 300, spread(n, 8, 64))
    boxes[::9, 2] = boxes[::9, 0]
    boxes[1::9] = boxes[1::9, [2, 3, 0, 1]]
    boxes[2::9] = boxes[2::9, [2, 1, 0, 3]]
    boxes[3::90] = torch.tensor([-torch.inf, -torch.inf, torch.inf, torch.inf])
    boxes[4::90, 1] = torch.nan
    boxes[5::90, 3] = torch.inf
    return boxes


FAMILIES: dict[str, Callable[[int], Tensor]] = {
    "one size": lambda n: at(torch.rand(n, 2) * 500, torch.full((n, 2), 32.0)),
    "all sizes": lambda n: at(torch.rand(n, 2) * 300, spread(n, 0.1, 500)),
    "strips": lambda n: at(torch.rand(n, 2) * 300, spread(n, 2, 300)),
    "on borders of cells": lambda n: (
        torch.randint(-8, 8, (n, 2)).repeat(1, 2) * 16.0
        + torch.tensor([0, 0, 1, 1]) * 2.0 ** torch.randint(3, 8, (n, 1))
    ),
    "around a center": lambda n: at(torch.rand(n, 2), spread(n, 1, 1000)),
    "far away": lambda n: at(1e6 + torch.rand(n, 2) * 20, spread(n, 0.2, 9)),
    "tiny": lambda n: at(torch.rand(n, 2) * 1e-18, spread(n, 1e-20, 1e-18)),
    "below the smallest normal number": lambda n: at(torch.rand(n, 2), spread(n, 0.1, 1)) * 1e-39,
    "areas below it": lambda n: at(torch.rand(n, 2), spread(n, 0.1, 1)) * 2e-21,
    "areas of a few bits": lambda n: at(torch.rand(n, 2), spread(n, 0.1, 1)) * 2e-22,
    "large": lambda n: at(torch.rand(n, 2) * 1e18, spread(n, 1e16, 1e19)),
    "outliers": outliers,
    "degenerate": degenerate,
}


@pytest.mark.parametrize("threshold", THRESHOLDS)
@pytest.mark.parametrize("family", FAMILIES)
def test_reference(family: str, threshold: float, full_size_device: torch.device) -> None:
    boxes, scores = FAMILIES[family](COUNT), torch.rand(COUNT)
    want, suppressors = reference.nms_match(boxes, scores, threshold)
    arguments = boxes.to(full_size_device), scores.to(full_size_device), threshold
    assert torch.equal(nms(*arguments).cpu(), want)
    keep, match = nms_match(*arguments)
    assert torch.equal(keep.cpu(), want) and torch.equal(match.cpu(), suppressors)


@pytest.mark.parametrize("family", FAMILIES)
def test_float64(family: str, full_size_device: torch.device) -> None:
    boxes, scores = FAMILIES[family](COUNT).double(), torch.rand(COUNT)
    boxes[1::2] *= 1 + 1e-12
    for threshold in (0.1, 0.5):
        want = reference.nms(boxes, scores, threshold)
        got = nms(boxes.to(full_size_device), scores.to(full_size_device), threshold)
        assert torch.equal(got.cpu(), want)


def test_one_large_group_among_small_ones(full_size_device: torch.device) -> None:
    boxes, scores = FAMILIES["one size"](2 * COUNT), torch.rand(2 * COUNT).mul(500).round()
    idxs = torch.where(torch.rand(2 * COUNT) < 0.8, 7, torch.randint(-50, 50, (2 * COUNT,)))
    want = reference.batched_nms(boxes, scores, idxs, 0.4)
    got = batched_nms(*(x.to(full_size_device) for x in (boxes, scores, idxs)), 0.4)
    assert torch.equal(got.cpu(), want)


@pytest.mark.parametrize("most", [200, 256, 257, 300])
def test_a_limit(most: int, full_size_device: torch.device) -> None:
    boxes, scores = FAMILIES["one size"](COUNT), torch.rand(COUNT)
    batch = boxes[None].to(full_size_device), scores[None].to(full_size_device), None
    idx, count = nms_padded(*batch, 0.5, -1.0, most)
    assert count.tolist() == [most]
    assert torch.equal(idx[0].cpu(), reference.nms(boxes, scores, 0.5)[:most])


@pytest.mark.parametrize("threshold", [0.0, 0.1, 0.5])
def test_one_box_of_another_size(threshold: float) -> None:
    """A box as large as the canvas, and one that is next to nothing, among many: the reference, and
    the same without them (they clash with nobody at 0.1 and 0.5)."""
    boxes, scores = FAMILIES["one size"](COUNT), torch.rand(COUNT)
    odd = torch.tensor([[0.0, 0, 1e6, 1e6], [0, 0, 1e-20, 1e-20], [0, 0, 500, 500]])
    with_odd = torch.cat([boxes, odd]), torch.cat([scores, torch.tensor([0.99, 0.5, 0.01])])
    keep = nms(*with_odd, threshold)
    assert torch.equal(keep, reference.nms(*with_odd, threshold))
    if threshold > 0:
        assert torch.equal(keep[keep < COUNT], nms(boxes, scores, threshold))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_huge_groups_beside_others(dtype: torch.dtype) -> None:
    """Two groups of more boxes than pay for threads of their own, some degenerate, among small
    ones; against each on its own and one thread."""
    n = 80_000
    boxes = at(torch.rand(n, 2) * 900, spread(n, 16, 64)).to(dtype)
    boxes[::50] = FAMILIES["degenerate"](n // 50).to(dtype)
    scores = torch.rand(n).mul(1e4).round()
    idxs = torch.where(torch.rand(n) < 0.05, torch.randint(9, (n,)), torch.arange(n) % 2 * 5)
    torch.set_num_threads(2)
    keep = batched_nms(boxes, scores, idxs, 0.5)
    limited, count = nms_padded(boxes[None], scores[None], idxs[None], 0.5, -1.0, 9000)
    torch.set_num_threads(1)
    assert torch.equal(keep, batched_nms(boxes, scores, idxs, 0.5))
    for group in idxs.unique():
        rows = (idxs == group).nonzero().flatten()
        alone = rows[nms(boxes[rows], scores[rows], 0.5)]
        assert torch.equal(keep[idxs[keep] == group], alone)
    assert count.tolist() == [9000] and torch.equal(limited[0], keep[:9000])


def test_more_images_than_a_grid_dimension(full_size_device: torch.device) -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10], [1, 0, 11, 10]], device=full_size_device)
    n = 70_000
    scores = torch.rand(n, 2, device=full_size_device)
    idx, count = nms_padded(boxes.expand(n, 2, 4), scores, None, 0.5, 0.0, 2)
    assert torch.equal(idx[:, 0], scores.argmax(1)) and (idx[:, 1] == -1).all()
    assert (count == 1).all()


@pytest.mark.parametrize("sparse", [False, True])
def test_threads_within_a_huge_group(sparse: bool) -> None:
    n = 40_000
    boxes = at(torch.rand(n, 2) * (3000 if sparse else 600), spread(n, 16, 64))
    scores = torch.rand(n).mul(1e4).round()
    results = []
    for threads in (1, 2, 5):
        torch.set_num_threads(threads)
        results.append((nms(boxes, scores, 0.5), *nms_match(boxes, scores, 0.5)))
    for other in results[1:]:
        assert all(map(torch.equal, results[0], other))
    torchvision = pytest.importorskip("torchvision")
    assert torch.equal(results[0][0], torchvision.ops.nms(boxes, scores, 0.5))
