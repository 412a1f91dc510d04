"""match_anchors and count_foreground: the reference, torchvision's Matcher, mmdetection's rule."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from focaldet import reference
from focaldet.ops import AnchorGrid, box_iou, count_foreground, generate_anchors, match_anchors

LOW_QUALITY = ("torchvision", "mmdet", "none")
IMAGE = (256, 320)
SIZES = [(32, 40), (16, 20), (8, 10), (4, 5), (2, 3)]
ANCHORS = AnchorGrid.torchvision().at(SIZES, IMAGE)


def random_boxes(n: int, smallest: float = 2, largest: float = 200) -> Tensor:
    """Boxes of all sizes within IMAGE, as many small as large."""
    size = torch.exp(torch.rand(n, 2) * math.log(largest / smallest) + math.log(smallest))
    corner = torch.rand(n, 2) * (torch.tensor([IMAGE[1], IMAGE[0]]) - size)
    return torch.cat([corner, corner + size], dim=1)


def check(anchors: Any, boxes: Tensor, splits: Tensor, device: torch.device, *rules: Any) -> Tensor:
    """Equal to the reference, bit for bit; returns the matches."""
    on_device = anchors.to(device) if isinstance(anchors, Tensor) else anchors
    arguments = on_device, boxes.to(device), splits.to(device), *rules
    got = match_anchors(*arguments)
    want = reference.match_anchors(anchors, boxes, splits, *rules)
    assert got.dtype == torch.int32 and got.device.type == device.type
    assert torch.equal(got.cpu(), want)
    counts = count_foreground(*arguments)
    assert counts.dtype == torch.int64
    assert torch.equal(counts.cpu(), (want >= 0).sum(dim=1))
    return want


@pytest.mark.parametrize("low_quality", LOW_QUALITY)
@pytest.mark.parametrize("thresholds", [(0.5, 0.4), (0.5, 0.5), (0.7, 0.3), (0.0, 0.0), (1.0, 0.0)])
def test_reference(low_quality: str, thresholds: tuple[float, float], device: torch.device) -> None:
    splits = torch.tensor([0, 7, 7, 30, 31])  # the second image has no box
    check(ANCHORS, random_boxes(31), splits, device, *thresholds, low_quality)


@pytest.mark.parametrize("count", [1, 3, 40])
def test_torchvision_bit_for_bit(count: int, device: torch.device) -> None:
    pytest.importorskip("torchvision")
    from torchvision.models.detection._utils import Matcher
    from torchvision.ops import box_iou as their_iou

    table = generate_anchors(ANCHORS)
    for allow, rule in ((True, "torchvision"), (False, "none")):
        for fg_iou, bg_iou in ((0.5, 0.4), (0.7, 0.3)):
            boxes = random_boxes(count)
            iou = their_iou(boxes, table)
            assert (iou.amax(dim=1) > 0).all()
            theirs = Matcher(fg_iou, bg_iou, allow_low_quality_matches=allow)(iou)
            splits = torch.tensor([0, count])
            ours = check(ANCHORS, boxes, splits, device, fg_iou, bg_iou, rule)[0]
            assert torch.equal(ours.long(), theirs)


def mmdet_assigner(iou: Tensor, fg_iou: float, bg_iou: float) -> list[int]:
    """MaxIoUAssigner with min_pos_iou = 0 and gt_max_assign_all, box after box."""
    columns = [[float(v) for v in column] for column in iou.t()]
    result = []
    for column in columns:
        best = max(column)
        match = -2
        if best < bg_iou:
            match = -1
        if best >= fg_iou:
            match = column.index(best)
        result.append(match)
    for row, values in enumerate(iou.tolist()):
        for anchor, value in enumerate(values):
            if value == max(values) and value > 0:
                result[anchor] = row
    return result


def test_mmdetection_rule(device: torch.device) -> None:
    table = generate_anchors(AnchorGrid.mmdetection().at([(4, 5)] * 5, IMAGE))
    boxes = torch.cat([random_boxes(9, 20), random_boxes(2, 20).repeat(2, 1)])
    for fg_iou, bg_iou in ((0.5, 0.4), (0.9, 0.1)):
        iou = reference.box_iou(boxes, table).double().float()
        thresholds = (float(torch.tensor(t)) for t in (fg_iou, bg_iou))  # compared in float32
        expected = mmdet_assigner(iou, *thresholds)
        splits = torch.tensor([0, len(boxes)])
        got = check(table, boxes, splits, device, fg_iou, bg_iou, "mmdet")[0]
        assert got.tolist() == expected


def test_ties(device: torch.device) -> None:
    """Equal boxes: the lowest row, and under "mmdet" the last one that claims the anchor."""
    anchors = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 10], [20, 0, 30, 10], [4, 0, 14, 10]])
    boxes = torch.tensor([[0.0, 0, 10, 10]] * 3 + [[20.0, 0, 30, 40]])
    splits = torch.tensor([0, 4])
    expected = {
        "torchvision": [0, 0, 3, 4],
        "mmdet": [2, 2, 3, 4],
        "none": [0, 0, -1, 4],
    }
    for rule, rows in expected.items():
        rows = [-2 if row == 4 else row for row in rows]  # IoU 60 / 140
        assert check(anchors, boxes, splits, device, 0.5, 0.4, rule).tolist() == [rows]


def test_low_quality_rules_differ_where_a_claimed_anchor_prefers_another_box(
    device: torch.device,
) -> None:
    # The only anchor near box 1 overlaps box 0 more.
    anchors = torch.tensor([[0.0, 0, 10, 10], [100, 0, 110, 10]])
    boxes = torch.tensor([[0.0, 0, 10, 12], [0.0, 0, 10, 40]])
    splits = torch.tensor([0, 2])
    for rule, match in (("torchvision", 0), ("mmdet", 1), ("none", 0)):
        assert check(anchors, boxes, splits, device, 0.5, 0.4, rule).tolist() == [[match, -1]]


def test_thresholds_are_inclusive_and_in_float32(device: torch.device) -> None:
    # IoU exactly 0.5, 0.4 (4 / 10) and 0.3 (3 / 10), as float32 divides them.
    anchors = torch.tensor([[0.0, 0, 5, 1], [0.0, 0, 4, 1], [0.0, 0, 3, 1], [0.0, 0, 10, 1]])
    box, splits = torch.tensor([[0.0, 0, 10, 1]]), torch.tensor([0, 1])
    got = check(anchors, box, splits, device, 0.5, 0.4, "none")
    assert got.tolist() == [[0, -2, -1, 0]]
    got = check(anchors, box, splits, device, 0.4, 0.3, "none")
    assert got.tolist() == [[0, 0, -2, 0]]


@pytest.mark.parametrize("low_quality", LOW_QUALITY)
def test_a_box_that_overlaps_no_anchor_claims_none(low_quality: str, device: torch.device) -> None:
    """torchvision would mark every anchor as foreground."""
    boxes = torch.tensor(
        [
            [5000.0, 5000, 5100, 5100],  # outside everything
            [50.0, 50, 50, 90],  # no width
            [90.0, 50, 60, 90],  # inverted
            [40.0, 40, 40, 40],  # a point
        ]
    )
    for count in range(1, 5):
        splits = torch.tensor([0, count])
        got = check(ANCHORS, boxes[:count], splits, device, 0.5, 0.4, low_quality)
        assert (got == -1).all()
    splits = torch.tensor([0, 5])
    both = torch.cat([boxes, torch.tensor([[30.0, 30, 80, 80]])])
    got = check(ANCHORS, both, splits, device, 0.5, 0.4, low_quality)
    assert set(got.unique().tolist()) <= {-2, -1, 4} and (got == 4).any()


@pytest.mark.parametrize("low_quality", LOW_QUALITY)
def test_empty_batches_and_images(low_quality: str, device: torch.device) -> None:
    none = torch.empty(0, 4)
    for splits in ([0], [0, 0], [0, 0, 0]):
        got = check(ANCHORS, none, torch.tensor(splits), device, 0.5, 0.4, low_quality)
        assert got.shape == (len(splits) - 1, len(ANCHORS)) and (got == -1).all()
    boxes = random_boxes(3)
    got = check(ANCHORS, boxes, torch.tensor([0, 0, 3, 3]), device, 0.5, 0.4, low_quality)
    assert (got[[0, 2]] == -1).all() and (got[1] >= 0).any()
    nowhere = AnchorGrid.torchvision().at([(0, 0)] * 5, (0, 0))
    for anchors in (nowhere, none):
        got = check(anchors, boxes, torch.tensor([0, 3]), device, 0.5, 0.4, low_quality)
        assert got.shape == (1, 0)
    gaps = AnchorGrid.torchvision().at([(0, 4), (3, 3), (2, 0), (0, 0), (1, 1)], IMAGE)
    check(gaps, boxes, torch.tensor([0, 3]), device, 0.5, 0.4, low_quality)


def test_rows_past_the_last_split_are_padding(device: torch.device) -> None:
    boxes, splits = random_boxes(6), torch.tensor([0, 2, 5])
    want = check(ANCHORS, boxes[:5], splits, device)
    assert torch.equal(check(ANCHORS, boxes, splits, device), want)
    zeros = torch.cat([boxes[:5], torch.zeros(3, 4)])
    assert torch.equal(check(ANCHORS, zeros, splits, device), want)


def test_anchors_with_nan_match_nothing(device: torch.device) -> None:
    anchors = generate_anchors(ANCHORS)[-60:].clone()
    anchors[::3] = math.nan
    anchors[1, 2], anchors[4, 0] = math.nan, math.inf
    boxes, splits = random_boxes(4, 60), torch.tensor([0, 4])
    for rule in LOW_QUALITY:
        got = check(anchors, boxes, splits, device, 0.5, 0.4, rule)
        assert (got[0, ::3] == -1).all() and got[0, 1] == got[0, 4] == -1


@pytest.mark.parametrize("grid", ["paper", "torchvision", "detectron2", "mmdetection"])
def test_a_tensor_of_anchors_equals_the_grid(grid: str, device: torch.device) -> None:
    anchors = getattr(AnchorGrid, grid)().at(SIZES, IMAGE)
    boxes, splits = random_boxes(12).to(device), torch.tensor([0, 5, 12], device=device)
    table = generate_anchors(anchors, device)
    want = match_anchors(anchors, boxes, splits)
    assert torch.equal(match_anchors(table, boxes, splits), want)
    strided = torch.stack([table, table], dim=1)[:, 1]
    assert torch.equal(match_anchors(strided, boxes, splits), want)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_boxes_of_other_dtypes_are_compared_in_float32(
    dtype: torch.dtype, device: torch.device
) -> None:
    boxes, splits = random_boxes(9).to(dtype), torch.tensor([0, 9])
    got = match_anchors(ANCHORS, boxes.to(device), splits.to(device)).cpu()
    assert torch.equal(got, match_anchors(ANCHORS, boxes.float(), splits))


def test_anchors_in_float64_are_compared_in_float32(device: torch.device) -> None:
    anchors = torch.tensor([[0.0, 0, 5 - 1e-9, 1], [0.0, 0, 10, 1]], dtype=torch.float64)
    box = torch.tensor([[0.0, 0, 10, 1]], dtype=torch.float64)
    got = check(anchors, box, torch.tensor([0, 1]), device, 0.5, 0.4, "none")
    assert got.tolist() == [[0, 0]]  # IoU 0.4999999999 in double, 0.5 in float


def test_the_order_of_images_does_not_matter(device: torch.device) -> None:
    boxes = random_boxes(8).to(device)
    splits = torch.tensor([0, 3, 8], device=device)
    first, second = match_anchors(ANCHORS, boxes, splits)
    swapped = torch.tensor([0, 5, 8], device=device)
    got = match_anchors(ANCHORS, torch.cat([boxes[3:], boxes[:3]]), swapped)
    assert torch.equal(got[0], second) and torch.equal(got[1], first)


@pytest.mark.parametrize("low_quality", LOW_QUALITY)
def test_any_number_of_threads(low_quality: str) -> None:
    boxes, splits = random_boxes(25), torch.tensor([0, 9, 25])
    results = []
    for threads in (1, 2, 5):
        torch.set_num_threads(threads)
        results.append(match_anchors(ANCHORS, boxes, splits, low_quality=low_quality))
    assert all(torch.equal(results[0], other) for other in results[1:])


def test_every_matched_anchor_is_explained(device: torch.device) -> None:
    """The definition, read off the IoU matrix of box_iou."""
    boxes = random_boxes(20)
    iou = box_iou(boxes, generate_anchors(ANCHORS))
    match = check(ANCHORS, boxes, torch.tensor([0, 20]), device)[0].long()
    best, claimed = iou.amax(dim=0), (iou == iou.amax(dim=1, keepdim=True)).any(dim=0)
    assert torch.equal(match >= 0, (best >= 0.5) | claimed)
    assert torch.equal(match == -1, (best < 0.4) & ~claimed)
    chosen = iou.gather(0, match.clamp(min=0)[None])[0]
    assert torch.equal(chosen[match >= 0], best[match >= 0])


def test_grids_far_from_the_origin(device: torch.device) -> None:
    """Where the sides of anchors are rounded to 1/64 pixel and more."""
    cells = AnchorGrid.paper().cell_anchors[:1]
    for offset in (-1e4, -5.5, 3e4):
        anchors = AnchorGrid(cells, (8,), offset).at([(9, 11)], (72, 88))
        origin = generate_anchors(anchors)[0, :2]
        boxes = (random_boxes(12, 8, 60) * 0.5 + origin.repeat(2)).float()
        for rule in LOW_QUALITY:
            check(anchors, boxes, torch.tensor([0, 12]), device, 0.5, 0.4, rule)


@pytest.mark.parametrize("operator", [match_anchors, count_foreground])
def test_compile(operator: Any, device: torch.device) -> None:
    torch._dynamo.reset()
    compiled = torch.compile(operator, fullgraph=True, backend="aot_eager")
    for count in (5, 9):
        boxes = random_boxes(count).to(device)
        splits = torch.tensor([0, 2, count], device=device)
        want = operator(ANCHORS, boxes, splits)
        assert torch.equal(compiled(ANCHORS, boxes, splits), want)
