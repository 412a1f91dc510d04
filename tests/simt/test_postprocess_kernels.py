"""The kernels of retinanet_postprocess against the CPU's operator, bit for bit: buffers that are
too small, ties at every cut, both layouts."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor

from focaldet.ops import AnchorGrid, Anchors, retinanet_postprocess
from simt.cases import DTYPES
from simt.kernels import Kernels

pytestmark = pytest.mark.simt

PLANAR, PACKED = torch.contiguous_format, torch.channels_last
K, STRIDE = 4, 8
SLACK = 1024  # a buffer has room for topk candidates and so many more


def anchors_of(sizes: list[tuple[int, int]]) -> Anchors:
    """Three per position."""
    grid = AnchorGrid.torchvision(sizes=(12,) * len(sizes), aspect_ratios=(1.0,))
    return grid.at(sizes, (sizes[0][0] * STRIDE, sizes[0][1] * STRIDE))


# More logits than a buffer holds, fewer, and none.
SIZES = [(16, 17), (3, 5), (0, 2)]
ANCHORS = anchors_of(SIZES)


def maps_of(anchors: Anchors, batch: int, channels: int = K) -> list[Tensor]:
    """Logits, unless other channels are asked for."""
    channels *= anchors.per_position
    return [torch.randn(batch, channels, *size) for size in anchors.feature_sizes]


def check(
    kernels: Kernels,
    logits: list[Tensor],
    anchors: Anchors = ANCHORS,
    deltas: list[Tensor] | None = None,
    **options: Any,
) -> Tensor:
    """The numbers of detections."""
    batch = len(logits[0])
    deltas = deltas or [(d / 4).to(logits[0].dtype) for d in maps_of(anchors, batch, 4)]
    height, width = (STRIDE * side for side in anchors.feature_sizes[0])
    sizes = torch.tensor([(height - i, width - 2 * i) for i in range(batch)]).long().view(batch, 2)
    want = retinanet_postprocess(logits, deltas, anchors, sizes, **options)
    with kernels.in_place_of_cpu():
        got = retinanet_postprocess(logits, deltas, anchors, sizes, **options)
    for g, w in zip(got, want, strict=True):
        assert g.dtype == w.dtype and torch.equal(g, w)
    return got[3]


@pytest.mark.parametrize("dtype", DTYPES)
def test_more_candidates_than_the_buffer_holds(dtype: torch.dtype, simt_kernels: Kernels) -> None:
    logits = [level.to(dtype) for level in maps_of(ANCHORS, 2)]
    assert logits[0][0].numel() > SLACK + 40 > logits[1][0].numel()
    for topk in (1, 40):
        assert (check(simt_kernels, logits, topk=topk) > 0).all()


@pytest.mark.parametrize("layouts", [(PLANAR,), (PACKED,), (PACKED, PLANAR)])
def test_ties_at_the_cut(layouts: tuple[Any, ...], simt_kernels: Kernels) -> None:
    """They go to the lower flat index, which is in neither layout's order of memory alone."""
    one = [torch.ones_like(level) for level in maps_of(ANCHORS, 1)]
    two = [(level > 0.3).float() for level in maps_of(ANCHORS, 1)]
    near = [torch.where(level > 1, 0.1, torch.tensor(0.1).nextafter(level)) for level in two]
    for values in (one, two, near):
        logits = [
            level.to(memory_format=layouts[i % len(layouts)]) for i, level in enumerate(values)
        ]
        for topk in (1, 7, 300):
            check(simt_kernels, logits, topk=topk, max_detections=50, iou_threshold=0.9)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_images_of_all_kinds(dtype: torch.dtype, simt_kernels: Kernels) -> None:
    """One that overflows, one without candidates, one with few; and NaN and infinite logits."""
    logits = maps_of(ANCHORS, 3)
    for level in logits:
        level[1] -= 100
        level[2] -= 4
    logits[0][0, ::5], logits[0][0, 1::5], logits[0][2, 2::5] = torch.inf, torch.nan, -torch.inf
    values = [level.to(dtype) for level in logits]
    for agnostic in (False, True):
        counts = check(simt_kernels, values, topk=30, class_agnostic=agnostic)
        assert counts[0] > 0 and counts[1] == 0 and counts[2] > 0


@pytest.mark.parametrize("score_threshold", [-1.0, 0.0, 0.5, 1.0])
def test_thresholds(score_threshold: float, simt_kernels: Kernels) -> None:
    """Below 0 everything is a candidate but NaN, and the keys have the most bits."""
    logits = maps_of(ANCHORS, 1)
    logits[0][0, :6], logits[0][0, 6] = -torch.inf, torch.nan
    logits[1] *= 100
    for topk in (3, 3000):
        check(simt_kernels, logits, topk=topk, score_threshold=score_threshold)


def test_topk_beyond_what_shared_memory_sorts(simt_kernels: Kernels) -> None:
    anchors = anchors_of([(22, 20)])
    logits = maps_of(anchors, 1)
    assert logits[0].numel() > 4096 + SLACK
    for topk in (4096, 10_000):
        options = dict(topk=topk, score_threshold=0.0, max_detections=20)
        assert check(simt_kernels, logits, anchors, **options) == 20


def test_a_large_buffer_is_narrowed_before_it_is_sorted(simt_kernels: Kernels) -> None:
    """1 % of the level's bytes are room for more candidates than shared memory sorts."""
    anchors = anchors_of([(72, 72)])
    logits = [torch.full((1, 3 * 27, 72, 72), -9.0, dtype=torch.float64)]
    room = logits[0].numel() // 100
    chosen = torch.randperm(logits[0].numel())[: (4096 + room) // 2]
    assert 4096 < len(chosen) < room
    for values in (torch.randn(len(chosen)).double(), torch.ones(len(chosen)).double()):
        logits[0].view(-1)[chosen] = values
        assert check(simt_kernels, logits, anchors, topk=50) > 0
    logits[0].view(-1)[chosen[0]] = torch.inf
    assert check(simt_kernels, logits, anchors, topk=1) == 1


def test_strided_and_misaligned_maps(simt_kernels: Kernels) -> None:
    logits, deltas = maps_of(ANCHORS, 2), maps_of(ANCHORS, 2, 4)

    def strided(m: Tensor) -> Tensor:
        return torch.stack([m, m], dim=-1)[..., 1]

    def misaligned(m: Tensor) -> Tensor:
        return torch.empty(m.numel() + 1)[1:].view(m.shape).copy_(m)

    for change in (strided, misaligned):
        x, d = ([change(m) for m in maps] for maps in (logits, deltas))
        check(simt_kernels, x, deltas=d, topk=40)


def test_launches_do_not_depend_on_what_is_found(simt_kernels: Kernels) -> None:
    """And one pass is enough where every logit has a place in the buffer."""

    def launched(offset: float, anchors: Anchors) -> Counter[str]:
        before = Counter(simt_kernels.launches())
        check(simt_kernels, [level + offset for level in maps_of(anchors, 2)], anchors, topk=20)
        done = Counter(simt_kernels.launches()) - before
        seeds = len(simt_kernels.seeds)
        assert all(count % seeds == 0 for count in done.values())
        return Counter({re.match(r"\w+", name)[0]: n // seeds for name, n in done.items()})

    few = launched(-100, ANCHORS)
    assert few == launched(0, ANCHORS) == launched(100, ANCHORS)
    # Scores above 0.05 have 26 bits and the indices of the first level 12; a pass takes 11, and a
    # range of 10 fits.
    passes = 1 + -(-(26 + 12 - 10) // 11)
    assert few["collect_candidates"] == passes and few["narrow_selection"] == passes - 1
    assert few["start_selection"] == few["rank_and_decode"] == few["gather_detections"] == 1
    small = launched(0, anchors_of([(4, 5), (2, 3)]))
    assert small["collect_candidates"] == 1 and small["narrow_selection"] == 0


@pytest.mark.parametrize("options", [{"topk": 0}, {"max_detections": 0}])
def test_nothing_wanted(options: dict[str, int], simt_kernels: Kernels) -> None:
    assert (check(simt_kernels, maps_of(ANCHORS, 2), **options) == 0).all()
    assert len(check(simt_kernels, maps_of(ANCHORS, 0))) == 0
    for sizes in ([(0, 0)], [(4, 0), (0, 3)]):
        anchors = anchors_of(sizes)
        assert (check(simt_kernels, maps_of(anchors, 2), anchors) == 0).all()
    cells, _, strides, offset = ANCHORS.schema_arguments()
    maps = maps_of(ANCHORS, 2, 0), maps_of(ANCHORS, 2, 4)  # no classes, as no wrapper passes on
    rules = torch.ones(2, 2).long(), 0.05, 9, 0.5, 3, False
    case = *maps, cells, strides, offset, *rules
    assert simt_kernels.call("retinanet_postprocess", *case)[3].tolist() == [0, 0]
