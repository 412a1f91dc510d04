"""Random small problems against the reference: as many as FOCALDET_NMS_PROBLEMS says, a million in
a long run (half a minute). The count that was compared is printed. Larger
problems are in test_nms_large.py."""

from __future__ import annotations

import os

import pytest
import torch
from torch import Tensor

from focaldet import reference
from focaldet.ops import nms_match, nms_padded

PROBLEMS = int(os.environ.get("FOCALDET_NMS_PROBLEMS", "100000"))
AT_ONCE, LARGEST = 1000, 12
THRESHOLDS = (0.0, 0.1, 0.25, 1 / 3, 0.5, 0.7, 1.0)


def problems(random: torch.Generator, proper: bool) -> tuple[Tensor, Tensor]:
    """boxes [P, n, 4] and scores [P, n]: small whole coordinates and few scores, so that IoUs equal
    thresholds, scores tie and boxes degenerate."""
    n = int(torch.randint(1, LARGEST + 1, (), generator=random))
    extent = int(torch.randint(3, 20, (), generator=random))
    boxes = torch.randint(-3, extent, (AT_ONCE, n, 4), generator=random).float()
    if proper:
        boxes[..., 2:] = boxes[..., :2] + boxes[..., 2:].abs()
    return boxes, torch.randint(0, 6, (AT_ONCE, n), generator=random).float()


def match_all(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """reference.nms_match of every problem at once: int64 [P, n], rows within the problem."""
    order = scores.argsort(dim=1, descending=True, stable=True)
    sorted_boxes = boxes.gather(1, order[..., None].expand_as(boxes))
    area = reference.box_area(sorted_boxes)
    size = torch.minimum(sorted_boxes[:, :, None, 2:], sorted_boxes[:, None, :, 2:])
    size = (size - torch.maximum(sorted_boxes[:, :, None, :2], sorted_boxes[:, None, :, :2])).clamp(
        min=0
    )
    inter = size[..., 0] * size[..., 1]
    union = area[:, :, None] + area[:, None, :] - inter
    clash = (union > 0) & (inter / union > torch.tensor(iou_threshold))
    match = torch.full_like(order, -1)
    for i in range(boxes.shape[1]):
        kept = match[:, i] < 0
        match[kept, i] = i
        mine = clash[:, i] & (match < 0) & kept[:, None]
        mine[:, : i + 1] = False
        match[mine] = i
    rows = order.gather(1, match)
    return torch.empty_like(match).scatter_(1, order, rows)


def test_random_problems(capsys: pytest.CaptureFixture[str]) -> None:
    """A problem is a group of one call, so that groups are tested as well."""
    random = torch.Generator().manual_seed(0)
    done = 0
    while done < PROBLEMS:
        turn = done // AT_ONCE
        boxes, scores = problems(random, proper=turn % 3 != 0)
        n = boxes.shape[1]
        threshold = THRESHOLDS[turn % len(THRESHOLDS)]
        want = match_all(boxes, scores, threshold)
        if turn < len(THRESHOLDS):  # the batched twin is the reference's
            for p in range(0, AT_ONCE, 50):
                assert torch.equal(want[p], reference.nms_match(boxes[p], scores[p], threshold)[1])
        idxs = torch.arange(AT_ONCE).repeat_interleave(n)
        keep, match = nms_match(boxes.view(-1, 4), scores.view(-1), threshold, idxs)
        assert torch.equal(match.view(-1, n), want + torch.arange(AT_ONCE)[:, None] * n), done
        kept = want == torch.arange(n)
        assert torch.equal(keep.sort().values, kept.view(-1).nonzero().flatten()), done
        idx, count = nms_padded(boxes, scores, None, threshold, -1.0, n)
        assert torch.equal(count, kept.sum(1)), done
        order = torch.where(kept, scores, -1).argsort(dim=1, descending=True, stable=True)
        assert torch.equal(idx, order.where(torch.arange(n) < count[:, None], -1)), done
        done += AT_ONCE
    with capsys.disabled():
        print(f" {done:,} random problems", end="")
