"""Every way to find or to miss an object is told apart, and named in one sentence."""

from __future__ import annotations

import contextlib
import io
from typing import Any

import pytest
import torch
from looks import FAR, look
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from focaldet.explain.objects import assigned, objects
from focaldet.ops import box_iou

HERE = [10.0, 10, 50, 50]
NEAR = [10.0, 10, 50, 46]  # IoU .9 with HERE
LESS = [14.0, 10, 54, 50]  # IoU .82 with HERE, .74 with NEAR
HALF = [10.0, 10, 50, 26]  # IoU .4 with HERE

CASES: dict[str, dict[str, Any]] = {
    "Found by detection 1 (score 0.90, IoU 0.90).": {"found": [(NEAR, 0.9, 0)]},
    "Score too low: its best box has score 0.300, and 0.5 is needed (IoU 0.90).": {
        "found": [(FAR, 0.9, 0), (NEAR, 0.3, 0)]
    },
    "Suppressed: its best box (score 0.80, IoU 0.90) overlaps detection 1, that of object 2, "
    "too much.": {"objects": [(HERE, 0), (LESS, 0)], "found": [(LESS, 0.9, 0), (NEAR, 0.8, 0)]},
    "Suppressed: its best box (score 0.10, IoU 0.90) overlaps detection 1, that of object 2, "
    "too much, and scores below 0.5.": {
        "objects": [(HERE, 0), (LESS, 0)],
        "found": [(LESS, 0.9, 0), (NEAR, 0.1, 0)],
    },
    "Cut off: its best box (score 0.80, IoU 0.90) is not among the best 1 of the image.": {
        "found": [(FAR, 0.9, 1), (NEAR, 0.8, 0)],
        "limit": 1,
    },
    "Taken: its best box (score 0.90, IoU 0.90) fits object 2 better.": {
        "objects": [(HERE, 0), (NEAR, 0)],
        "found": [(NEAR, 0.9, 0)],
    },
    "Wrong class: detection 1 says bee (score 0.90, IoU 0.90), not ant.": {
        "found": [(NEAR, 0.9, 1)]
    },
    "Crowded out: a box of score 0.30 lies on it, but is not among the candidates, the best of "
    "its level.": {"anchors": [(HERE, 0)], "decoded": [(NEAR, 0.3, 0)]},
    "IoU too low: the nearest box of the class (score 0.90) overlaps it by 0.40, and 0.5 is "
    "needed.": {"found": [(HALF, 0.9, 0)]},
    "Not learned: no anchor is matched to it, the best has IoU 0.40.": {"anchors": [(HALF, -1)]},
    "Not seen: its anchors score at most 0.010 for ant, and a candidate needs 0.05.": {
        "anchors": [(HERE, 0)],
        "decoded": [(NEAR, 0.01, 0)],
    },
}


@pytest.mark.parametrize("verdict", CASES, ids=lambda verdict: verdict.split(":")[0])
def test_verdicts(verdict: str) -> None:
    first, *_ = objects(look(**{"objects": [(HERE, 0)]} | CASES[verdict]))
    assert first.verdict == verdict
    assert (first.detection is not None) == verdict.startswith("Found")


def test_a_box_of_another_class_that_has_its_own_object_is_no_wrong_class() -> None:
    case = look([(HERE, 0), (HERE, 1)], [(NEAR, 0.9, 1)])
    first, second = objects(case)
    assert first.verdict.startswith("Not learned") and second.detection == 0


def test_anchors_of_an_object() -> None:
    matched = [(HERE, 0), (HALF, 0), (NEAR, -2), (FAR, -1), (LESS, 0)]
    (only,) = objects(look([(HERE, 0)], anchors=matched))
    assert only.anchors.tolist() == [0, 1, 4]
    assert only.ious.tolist() == pytest.approx([1, 0.4, 36 / 44])
    assert only.best_iou == 1 and only.by_low_quality == 1
    assert only.levels == [(0, 3)]


def test_without_a_target_there_are_none() -> None:
    assert objects(look(None, [(HERE, 0.9, 0)])) == []


def test_detections_are_assigned_as_pycocotools_does() -> None:
    total = 0
    for seed in range(20):
        torch.manual_seed(seed)
        xy = torch.rand(40, 2) * 12
        boxes = torch.cat([xy, xy + 8 + 8 * torch.rand(40, 2)], 1)
        labels = torch.randint(0, 2, (40,))
        mine = assigned(box_iou(boxes[:15], boxes[15:]), labels[:15], labels[15:])
        assert mine == coco_assigned(boxes, labels, 15)
        total += sum(row >= 0 for row in mine)
    assert total > 100


def coco_assigned(boxes: torch.Tensor, labels: torch.Tensor, split: int) -> list[int]:
    """The first `split` boxes are the ground truth, the others detections by falling score."""
    records = [
        {
            "id": row + 1,
            "image_id": 0,
            "category_id": int(label),
            "bbox": [x1, y1, x2 - x1, y2 - y1],
            "area": (x2 - x1) * (y2 - y1),
            "iscrowd": 0,
            "score": 1 - row / 100,
        }
        for row, ((x1, y1, x2, y2), label) in enumerate(
            zip(boxes.double().tolist(), labels, strict=True)
        )
    ]
    sides = []
    with contextlib.redirect_stdout(io.StringIO()):
        for part in (records[:split], records[split:]):
            side = COCO()
            side.dataset = {
                "images": [{"id": 0}],
                "categories": [{"id": 0}, {"id": 1}],
                "annotations": part,
            }
            side.createIndex()
            sides.append(side)
        scoring = COCOeval(*sides, "bbox")
        scoring.evaluate()
    owner = [-1] * (len(boxes) - split)
    for each in scoring.evalImgs:
        if each and each["aRng"] == scoring.params.areaRng[0]:
            for detection, matched in zip(each["dtIds"], each["dtMatches"][0], strict=True):
                owner[detection - 1 - split] = int(matched) - 1
    return owner
