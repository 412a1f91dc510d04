"""The suppression kernels where their tiles begin and end: groups that cross them, chains, many
images, and a limit."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from focaldet import ops, reference
from simt.kernels import Kernels

pytestmark = pytest.mark.simt

TILE = 256  # kTile in csrc/cuda/nms_tiles.cuh
BLOCK = 2048  # kMostInBlock in csrc/cuda/nms_block_order.cuh
DTYPES = (torch.float16, torch.float32, torch.float64)


def random_boxes(n: int, area: float = 400.0) -> Tensor:
    corner = torch.rand(n, 2) * area
    return torch.cat([corner, corner + 10 + torch.rand(n, 2) * 40], dim=1)


def check(boxes: Tensor, scores: Tensor, groups: Tensor | None, threshold: float = 0.5) -> Tensor:
    """Returns the kept rows. They are put in order in both ways there are: rows that are no
    candidates make enough of any number for the second."""
    want_keep, want_match = reference.nms_match(boxes, scores, threshold, groups)
    n = len(boxes)
    more = max(BLOCK + 1 - n, 0)
    longer = F.pad(boxes, (0, 0, 0, more)), F.pad(scores, (0, more), value=torch.nan)
    longer_groups = None if groups is None else F.pad(groups, (0, more))
    keep, match = ops.nms_match(boxes, scores, threshold, groups)
    long_keep, long_match = ops.nms_match(*longer, threshold, longer_groups)
    assert torch.equal(keep, want_keep) and torch.equal(long_keep, want_keep)
    assert torch.equal(match, want_match) and torch.equal(long_match[:n], want_match)
    assert (long_match[n:] == -1).all()
    return keep


@pytest.mark.parametrize("n", [TILE - 1, TILE, TILE + 1, 2 * TILE + 1])
def test_one_group_around_the_size_of_a_tile(n: int, simt: torch.device) -> None:
    check(random_boxes(n), torch.rand(n), None)


@pytest.mark.parametrize("size", [1, 2, 31, 32, 33, 100, TILE - 1, TILE + 1])
def test_groups_that_cross_tiles(size: int, simt: torch.device) -> None:
    """Groups of one size, from the lowest id there is to the highest."""
    n = 3 * TILE
    groups = torch.arange(n) // size - 1
    groups[groups < 0] = -(1 << 63)
    groups[groups == groups.max()] = (1 << 63) - 1
    shuffled = torch.randperm(n)
    check(random_boxes(n, 60.0), torch.rand(n), groups[shuffled])


@pytest.mark.parametrize("end", [-(1 << 51), 1 << 51])
def test_group_ids_around_those_that_share_a_word_with_a_rank(end: int, simt: torch.device) -> None:
    groups = end + torch.randint(-3, 3, (200,))
    check(random_boxes(200, 60.0), torch.rand(200), groups)
    check(random_boxes(200, 60.0), torch.rand(200), groups.clamp(min=end))
    check(random_boxes(200, 60.0), torch.rand(200), groups.clamp(max=end - 1))


def test_a_small_group_on_either_side_of_a_border(simt: torch.device) -> None:
    """The kept boxes of the group before it, in the same tile, are none of its business."""
    same = torch.tensor([[0.0, 0, 10, 10]]).expand(2 * TILE, 4)
    for border in (TILE - 2, TILE - 1, TILE, TILE + 1):
        groups = (torch.arange(2 * TILE) >= border).long()
        scores = torch.arange(2.0 * TILE, 0, -1)
        assert check(same, scores, groups).tolist() == [0, border]


@pytest.mark.parametrize("n", [TILE + 2, 4 * TILE + 7])
def test_a_chain_through_all_tiles(n: int, simt: torch.device) -> None:
    """Each box overlaps the next one only, so nobody is decided before the one before."""
    x = torch.arange(n, dtype=torch.float32) * 4
    boxes = torch.stack([x, torch.zeros(n), x + 10, torch.full((n,), 10.0)], dim=1)
    assert check(boxes, -x, None, 0.3).tolist() == list(range(0, n, 2))


def test_a_box_meets_all_tiles_before_its_own(simt: torch.device) -> None:
    """What suppresses the last boxes lies in one tile or another, and the first of two counts."""
    n = 4 * TILE
    boxes = torch.arange(n).float()[:, None] * 20 + torch.tensor([0.0, 0, 10, 10])
    scores = torch.arange(float(n), 0, -1)
    for t in range(4):
        boxes[n - 1 - t] = boxes[t * TILE + 40]
        boxes[t * TILE + 70] = boxes[40] + 1
    check(boxes, scores, None)


def test_rows_that_are_no_candidates(simt: torch.device) -> None:
    n = 2 * TILE + 40
    boxes, scores, groups = random_boxes(n), torch.rand(n), torch.randint(0, 2, (n,))
    groups[groups == 1] = (1 << 63) - 1  # the id that stands for them
    boxes[::3, 2], scores[1::5] = torch.nan, torch.nan
    check(boxes, scores, groups)
    check(boxes.fill_(torch.nan), scores, groups)


@pytest.mark.parametrize("n", [BLOCK, BLOCK + 1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_as_many_as_a_block_puts_in_order_and_one_more(
    n: int, dtype: torch.dtype, simt: torch.device
) -> None:
    """Two images, with ties everywhere."""
    boxes = random_boxes(2 * n, 4000.0).to(dtype).view(2, n, 4)
    scores = torch.randint(-3, 30, (2, n)).to(dtype) / 10  # with 0.0 and -0.0
    scores[scores == 0.1] = -0.0
    labels = torch.randint(0, 5, (2, n))
    for groups in (None, labels):
        idx, count = ops.nms_padded(boxes, scores, groups, 0.3, -0.15, n)
        want_idx, want_count = reference.nms_padded(boxes, scores, groups, 0.3, -0.15, n)
        assert torch.equal(idx, want_idx) and torch.equal(count, want_count)


@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("limit", [1, 40, 3 * TILE])
def test_images_with_different_numbers_of_candidates(
    limit: int, grouped: bool, simt: torch.device
) -> None:
    """Few of which are kept, or all; as many as the limit in a group's first tile, or never."""
    images, n = 4, 2 * TILE + 9
    boxes, scores = random_boxes(images * n).view(images, n, 4), torch.rand(images, n)
    boxes[2] = torch.arange(n)[:, None] * 50.0 + torch.tensor([0.0, 0, 10, 10])
    scores[0, 5:] = 0
    scores[3] = 0
    labels = torch.randint(0, 3, (images, n)) if grouped else None
    idx, count = ops.nms_padded(boxes, scores, labels, 0.5, 0.1, limit)
    want_idx, want_count = reference.nms_padded(boxes, scores, labels, 0.5, 0.1, limit)
    assert torch.equal(idx, want_idx) and torch.equal(count, want_count)


def test_a_long_list_is_compacted_in_chunks(simt: torch.device) -> None:
    """Of 1,024 ranks each: a block adds up the counts of more of them than it has lanes."""
    n = 36 * 1024 + 300
    boxes, scores = random_boxes(n).view(1, n, 4), torch.randperm(n).view(1, n).float()
    groups = torch.arange(n).view(1, n)
    idx, count = ops.nms_padded(boxes, scores, groups, 0.5, -1.0, n + 5)
    assert count.tolist() == [n] and idx[0, n:].tolist() == [-1] * 5
    assert torch.equal(idx[0, :n], scores[0].argsort(descending=True))


def test_the_number_of_launches(simt_kernels: Kernels) -> None:
    """Whatever the boxes are."""

    def launches(n: int, groups: int) -> int:
        before = sum(simt_kernels.launches().values())
        boxes, scores = random_boxes(n).view(1, n, 4), torch.rand(1, n)
        labels = torch.randint(0, groups, (1, n)) if groups else None
        simt_kernels.call("nms_padded", boxes, scores, labels, 0.5, 0.0, 9)
        return (sum(simt_kernels.launches().values()) - before) // len(simt_kernels.seeds)

    assert [launches(n, 0) for n in (1, 700)] == [3, 3]
    assert [launches(n, groups) for n, groups in ((1, 1), (700, 1), (700, 700))] == [3, 3, 3]
    n = BLOCK + 1  # and sorts
    assert [launches(n, groups) for groups in (0, 1, n)] == [4, 5, 5]


@pytest.mark.parametrize("method", ["linear", "gaussian"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_soft_nms(dtype: torch.dtype, method: str, simt: torch.device) -> None:
    n = 70
    boxes, scores = random_boxes(n, 100.0).to(dtype), torch.rand(n).mul(16).round().div(16)
    boxes[3, 1], scores[4] = torch.nan, torch.nan
    for groups in (None, torch.randint(-1, 2, (n,)), torch.arange(n) // 33):
        for least in (0.0, 0.3):
            rules = {"min_score": least, "method": method, "idxs": groups}
            keep, kept_scores = ops.soft_nms(boxes, scores.to(dtype), 0.3, 0.5, **rules)
            want, want_scores = reference.soft_nms(boxes, scores.to(dtype), 0.3, 0.5, **rules)
            by_row = torch.argsort(want)
            order = by_row[torch.sort(want_scores[by_row], descending=True, stable=True).indices]
            assert torch.equal(keep, want[order])
            # The exponential of focaldet and that of torch are an ulp apart, by 69 factors.
            torch.testing.assert_close(kept_scores, want_scores[order], rtol=1e-5, atol=0)


def test_soft_nms_of_more_boxes_than_threads(simt: torch.device) -> None:
    n = 600
    boxes, scores = random_boxes(n, 30.0), torch.rand(n)
    keep, kept_scores = ops.soft_nms(boxes, scores, 0.3, min_score=0.5)
    want, want_scores = reference.soft_nms(boxes, scores, 0.3, min_score=0.5)
    order = torch.sort(want_scores, descending=True, stable=True).indices
    assert torch.equal(keep, want[order]) and torch.equal(kept_scores, want_scores[order])


def test_soft_nms_of_nothing(simt: torch.device) -> None:
    for n, score in ((0, 1.0), (40, 0.0005), (40, torch.nan)):
        keep, scores = ops.soft_nms(random_boxes(n), torch.full((n,), score))
        assert keep.shape == scores.shape == (0,)
