"""The matching kernels on boxes, grids and splits wilder than those of tests/ops/test_match.py."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from focaldet import reference
from simt.cases import ANCHORS

pytestmark = pytest.mark.simt

_ops = torch.ops.focaldet


def match(
    anchors: Any, boxes: Tensor, splits: list[int], low_quality: str, fg: float, bg: float
) -> Tensor:
    tensor = isinstance(anchors, Tensor)
    grid = ([], [], [], 0.0) if tensor else anchors.schema_arguments()
    arguments = (
        anchors if tensor else None,
        *grid,
        boxes,
        torch.tensor(splits),
        fg,
        bg,
        low_quality,
    )
    found = _ops.match_anchors(*arguments)
    assert torch.equal(_ops.count_foreground(*arguments), (found >= 0).sum(dim=1))
    return found


WILD = torch.tensor(
    [
        [10.0, 10, 40, 30],
        [20.0, 20, 20, 40],  # no width
        [50.0, 10, 20, 40],  # inverted
        [60.0, 40, 20, 10],  # twice: of positive area
        [torch.inf, torch.inf, torch.inf, torch.inf],
        [-torch.inf, -torch.inf, torch.inf, torch.inf],
        [0.0, 0, torch.inf, 20],
        [-1e20, -1e20, 1e20, 1e20],
        [torch.nan] * 4,
        [5.0, torch.nan, 30, 30],
        [-500.0, -500, 900, 900],
        [30.0, 10, 31, 12],
    ]
)


@pytest.mark.parametrize("low_quality", ["torchvision", "mmdet", "none"])
@pytest.mark.parametrize("thresholds", [(0.5, 0.4), (0.3, 0.0), (0.0, 0.0)])
def test_wild_boxes(low_quality: str, thresholds: tuple[float, float], simt: torch.device) -> None:
    table = reference.generate_anchors(ANCHORS)
    for splits in ([0, 12], [0, 0, 1, 5, 10, 12], [2, 4, 9]):
        rest = WILD, torch.tensor(splits), *thresholds, low_quality
        want = reference.match_anchors(ANCHORS, *rest)
        for anchors in (ANCHORS, table):
            assert torch.equal(match(anchors, WILD, splits, low_quality, *thresholds), want)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 3e6])
def test_wild_grids(scale: float, simt: torch.device) -> None:
    """Cells far off their position, of every size against the stride, inverted, not a number."""
    cells = torch.randn(2, 12, 4).mul(40 * scale)
    cells[..., 2:] = cells[..., :2] + torch.rand(2, 12, 2) * 60 * scale
    cells[0, 0] = torch.tensor([30.0, 0, 0, 30])
    cells[1, 1] = torch.nan
    cells[1, 2] = torch.tensor([-torch.inf, 0, torch.inf, 9])
    grid = cells.flatten().tolist(), [9, 13, 4, 40], [8, 8, 16, 3], 0.5
    corner = torch.rand(40, 2) * 120 * scale
    boxes = torch.cat([corner, corner + torch.rand(40, 2) * 70 * scale], dim=1)
    table = _ops.generate_anchors(torch.empty(0), *grid)
    splits = torch.tensor([0, 25, 40])
    for low_quality in ("torchvision", "mmdet"):
        rules = boxes, splits, 0.5, 0.4, low_quality
        got = _ops.match_anchors(None, *grid, *rules)
        assert torch.equal(got, reference.match_anchors(table, *rules))


def test_more_boxes_than_a_tile(simt: torch.device) -> None:
    corner = torch.rand(700, 2) * 60
    boxes = torch.cat([corner, corner + torch.rand(700, 2) * 30], dim=1)
    for low_quality in ("torchvision", "mmdet"):
        for bg in (0.4, 0.0):
            want = reference.match_anchors(
                ANCHORS, boxes, torch.tensor([0, 600, 700]), 0.5, bg, low_quality
            )
            assert torch.equal(match(ANCHORS, boxes, [0, 600, 700], low_quality, 0.5, bg), want)


def test_splits_that_are_garbage_read_nothing_else(simt: torch.device) -> None:
    for splits in ([-9, 2**62, -(2**63)], [5, 3, 9], [12, 13, 14], [3, 3, -1]):
        match(ANCHORS, WILD[:12].clone(), splits, "torchvision", 0.5, 0.4)
