"""Detections as columns: from a model, from records, put together; what is refused."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch

from focaldet.detect import coco_records
from focaldet.errors import UserError
from focaldet.found import Found


def record(**change: Any) -> dict[str, Any]:
    return {"image_id": 3, "category_id": 7, "bbox": [1, 2, 3.5, 4], "score": 0.5, **change}


def two() -> Found:
    return Found.from_records([record(), record(image_id=4, score=1)], "dt.json")


def test_a_models_detections_keep_every_bit() -> None:
    """A width in float32 would be rounded: evaluation, and files of detections, have it exact."""
    boxes = torch.tensor([[0.1, 0.2, 1000.3, 500.7], [0.0, 0.0, 1.0, 2.0]])
    detection = {"boxes": boxes, "scores": torch.tensor([0.3, 0.2]), "labels": torch.tensor([1, 0])}
    found = Found.on_image(12, detection, [5, 9])
    assert found.image_ids.tolist() == [12, 12] and found.category_ids.tolist() == [9, 5]
    (x1, y1, x2, y2), _ = boxes.tolist()
    assert found.boxes[0].tolist() == [x1, y1, x2 - x1, y2 - y1]
    assert found.boxes[0, 2] != float(boxes[0, 2] - boxes[0, 0])
    assert found.scores.tolist() == detection["scores"].tolist()
    records = [{"image_id": 12, **each} for each in coco_records(detection, [5, 9])]
    again = Found.from_records(records, "dt.json")
    for name in ("image_ids", "category_ids", "boxes", "scores"):
        assert np.array_equal(getattr(again, name), getattr(found, name)), name


def test_an_image_without_detections() -> None:
    nothing = {
        "boxes": torch.zeros(0, 4),
        "scores": torch.zeros(0),
        "labels": torch.zeros(0).long(),
    }
    assert len(Found.on_image(1, nothing, [5])) == 0


def test_parts_are_put_together_in_order() -> None:
    whole = Found.concatenate(part for part in (two(), Found.concatenate([]), two()))
    assert whole.image_ids.tolist() == [3, 4, 3, 4]
    assert whole.boxes.shape == (4, 4) and whole.scores.tolist() == [0.5, 1, 0.5, 1]


def test_numbers_of_any_kind_are_taken() -> None:
    kinds = record(
        image_id=np.int32(3), bbox=(np.float32(1), 2, Fraction(7, 2), 4.0), score=np.float32(0.5)
    )
    found = Found.from_records([kinds], "dt.json")
    assert found.boxes.tolist() == [[1, 2, 3.5, 4]] and found.scores.tolist() == [0.5]


@pytest.mark.parametrize(
    ("column", "other"),
    [
        ("image_ids", np.zeros(2)),
        ("category_ids", np.zeros(3, np.int64)),
        ("boxes", np.zeros((2, 4), np.float32)),  # would round the areas
        ("boxes", np.zeros((4, 2))),
    ],
)
def test_other_columns_are_refused(column: str, other: np.ndarray) -> None:
    columns = {**vars(two()), column: other}
    with pytest.raises(ValueError, match=f"{column}: expected .* got {other.dtype} of shape"):
        Found(**columns)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (record(image_id=1.0), "image_id 1.0; expected an integer"),
        (record(image_id=2**63), "image_id 9223372036854775808; expected an integer"),
        (record(category_id="7"), "category_id '7'; expected an integer"),
        (record(bbox=[1, 2, 3]), r"bbox \[1, 2, 3\]; expected four finite numbers"),
        (record(bbox=[1, 2, 3, "4"]), "expected four finite numbers"),
        (record(bbox="1234"), "bbox '1234'; expected four finite numbers"),
        (record(bbox=None), "bbox None; expected four finite numbers"),
        (record(bbox=[1, 2, 3, 10**400]), "expected four finite numbers"),
        (record(score=None), "score None; expected a finite number"),
        ({"image_id": 3, "category_id": 7, "bbox": [1, 2, 3, 4]}, "has no score"),
        (3, "expected an object, got int"),
        (["image_id"], "expected an object, got list"),
    ],
)
def test_a_bad_record_is_named(bad: Any, message: str) -> None:
    with pytest.raises(UserError, match=f"dt.json: detection 2: .*{message}"):
        Found.from_records([record(), record(), bad, record()], "dt.json")


@pytest.mark.parametrize("whole", [{"annotations": []}, "[]", None])
def test_what_is_no_list_is_refused(whole: Any) -> None:
    with pytest.raises(UserError, match="dt.json: expected a JSON list"):
        Found.from_records(whole, "dt.json")


def test_the_first_that_cannot_be_scored_is_named() -> None:
    ids = np.array([3, 4], np.int64)
    two().check(ids, np.array([7], np.int64), "dt.json")
    with pytest.raises(UserError, match="detection 1: image_id 4 is not an image"):
        two().check(ids[:1], np.array([7], np.int64), "dt.json")
    with pytest.raises(UserError, match="detection 0: category_id 7 is not a category"):
        two().check(ids, ids[:0], "dt.json")
