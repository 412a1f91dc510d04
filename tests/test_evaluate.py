"""Scores equal to pycocotools' on published files; corner cases; detections that are refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from focaldet.errors import UserError
from focaldet.evaluate import STATS, evaluate_detections, table


@pytest.fixture
def ground_truth() -> dict:
    """Two images, two categories whose ids have a gap, three boxes; annotation ids from 0."""
    return {
        "images": [{"id": 0, "width": 100, "height": 100}, {"id": 5, "width": 100, "height": 100}],
        "categories": [{"id": 2, "name": "cat"}, {"id": 7, "name": "dog"}],
        "annotations": [
            {"id": 0, "image_id": 0, "category_id": 2, "bbox": [10, 10, 20, 20]},
            {"id": 1, "image_id": 0, "category_id": 7, "bbox": [50, 50, 40, 40]},
            {"id": 2, "image_id": 5, "category_id": 2, "bbox": [30, 30, 30, 30]},
        ],
    }


def detections_of(ground_truth: dict) -> list[dict]:
    keys = ("image_id", "category_id", "bbox")
    return [{**{k: a[k] for k in keys}, "score": 0.9} for a in ground_truth["annotations"]]


@pytest.mark.parametrize("name", ["coco_val2014_100_fakebbox", "voc2012_100_real_detector"])
def test_equals_pycocotools_on_published_files(data_dir: Path, name: str) -> None:
    truth, detections, expected = (
        json.loads((data_dir / "eval_pairs" / name / file).read_text())
        for file in ("gt.json", "dt.json", "expected_pycocotools.json")
    )
    scores = evaluate_detections(truth, detections)
    assert scores["stats"] == expected["stats"]
    assert scores["per_class_AP"] == expected["per_class_AP"]
    assert scores.keys() == expected.keys()


def test_perfect_detections_score_1_even_with_annotation_id_0(ground_truth: dict) -> None:
    scores = evaluate_detections(ground_truth, detections_of(ground_truth))
    assert list(scores["stats"]) == list(STATS)
    assert scores["stats"]["AP"] == pytest.approx(1)
    assert scores["per_class_AP"] == pytest.approx({"2": 1, "7": 1})
    assert scores["stats"]["APl"] == -1, "no box is larger than 96^2"


def test_no_detections_score_0(ground_truth: dict) -> None:
    scores = evaluate_detections(ground_truth, [])
    assert scores["stats"]["AP"] == scores["stats"]["AR100"] == 0
    assert scores["per_class_AP"] == {"2": 0, "7": 0}


def test_a_category_without_boxes_is_left_out_of_the_mean(ground_truth: dict) -> None:
    ground_truth["categories"].append({"id": 9, "name": "unicorn"})
    scores = evaluate_detections(ground_truth, detections_of(ground_truth))
    assert scores["per_class_AP"]["9"] == -1
    assert scores["stats"]["AP"] == pytest.approx(1)
    assert "unicorn  no boxes" in table(scores, {"2": "cat", "7": "dog", "9": "unicorn"})


def test_a_detection_on_a_crowd_is_neither_right_nor_wrong(ground_truth: dict) -> None:
    ground_truth["annotations"][1]["iscrowd"] = 1
    ground_truth["annotations"].append(
        {"id": 3, "image_id": 5, "category_id": 7, "bbox": [10, 10, 20, 20]}
    )
    detections = detections_of(ground_truth)
    detections[1]["score"] = 0.95  # on the crowd: as a false positive, it would come first
    assert evaluate_detections(ground_truth, detections)["per_class_AP"]["7"] == pytest.approx(1)


def test_arguments_are_left_as_they_were(ground_truth: dict) -> None:
    detections = detections_of(ground_truth)
    before = json.dumps([ground_truth, detections])
    evaluate_detections(ground_truth, detections)
    assert json.dumps([ground_truth, detections]) == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_id": 77}, "detection 1: image_id 77 is not an image"),
        ({"image_id": [0]}, r"detection 1: image_id \[0\] is not an image"),
        ({"category_id": 3}, "detection 1: category_id 3 is not a category"),
        ({"bbox": [1, 2, 3]}, "detection 1: bbox .*; expected four finite numbers"),
        ({"bbox": [1, 2, 3, float("nan")]}, "detection 1: bbox .*; expected four finite numbers"),
        (
            {"bbox": [1, 2, -3, 4]},
            "detection 1: bbox .*; expected .*, not corners",
        ),
        ({"score": None}, "detection 1: score None; expected a finite number"),
        ({"score": float("inf")}, "detection 1: score inf; expected a finite number"),
    ],
)
def test_a_bad_detection_is_named(ground_truth: dict, change: dict, message: str) -> None:
    detections = detections_of(ground_truth)
    detections[1].update(change)
    with pytest.raises(UserError, match=message):
        evaluate_detections(ground_truth, detections)


def test_an_incomplete_detection_is_named(ground_truth: dict) -> None:
    detections = detections_of(ground_truth)
    del detections[2]["score"]
    with pytest.raises(UserError, match="detection 2: has no score"):
        evaluate_detections(ground_truth, detections)
    with pytest.raises(UserError, match="expected a JSON list"):
        evaluate_detections(ground_truth, {"annotations": []})
    with pytest.raises(UserError, match="detection 0: expected an object, got int"):
        evaluate_detections(ground_truth, [3])
