"""Scores equal to pycocotools', to the last bit, by every evaluator; corner cases; bad input."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from focaldet.errors import UserError
from focaldet.found import Found
from focaldet.scoring import EVALUATORS, STATS, check_evaluator, evaluate_detections, table

MISSING = {
    name: importlib.util.find_spec(evaluator.package.replace("-", "_")) is None
    for name, evaluator in EVALUATORS.items()
}
each_evaluator = pytest.mark.parametrize(
    "evaluator",
    [
        pytest.param(name, marks=pytest.mark.skipif(MISSING[name], reason=f"{name} is missing"))
        for name in EVALUATORS
    ],
)


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


# Against pycocotools itself ------------------------------------------------------------------


def plain_pycocotools(truth: dict, detections: list[dict], most: list[int] | None = None) -> Any:
    """COCOeval as its documentation has it, but for annotation ids from 1."""
    handles = []
    for boxes in (truth["annotations"], detections):
        handle = COCO()
        handle.dataset = {
            **truth,
            "annotations": [
                {"area": b["bbox"][2] * b["bbox"][3], "iscrowd": 0, **b, "id": number}
                for number, b in enumerate(boxes, start=1)
            ],
        }
        handles.append(handle)
    with contextlib.redirect_stdout(io.StringIO()):
        for handle in handles:
            handle.createIndex()
        scoring = COCOeval(*handles, "bbox")
        scoring.params.maxDets = most or scoring.params.maxDets
        scoring.evaluate()
        scoring.accumulate()
        scoring.summarize()
    return scoring


def assert_equal(truth: dict, detections: list[dict], evaluators: Iterable[str]) -> None:
    expected = plain_pycocotools(truth, detections)
    classes = [p[p > -1] for p in np.moveaxis(expected.eval["precision"][..., 0, -1], 2, 0)]
    means = [float(p.mean()) if p.size else -1.0 for p in classes]
    for evaluator in evaluators:
        scores = evaluate_detections(truth, detections, evaluator=evaluator)
        assert list(scores["stats"].values()) == expected.stats.tolist(), evaluator
        assert list(scores["per_class_AP"].values()) == means, evaluator


def a_box() -> st.SearchStrategy[list[float]]:
    """Often equal, or with an IoU of exactly 1/2 or 3/4; now and then without area."""
    grid = st.integers(0, 6).map(lambda n: 16 * n)
    side = st.sampled_from([0, 16, 32, 48, 64, 96, 128])
    on_grid = st.tuples(grid, grid, side, side)
    anywhere = st.tuples(*[st.floats(0, 150, width=32)] * 4)
    return st.one_of(on_grid, on_grid, anywhere).map(list)


def some(most: int, **fields: st.SearchStrategy) -> st.SearchStrategy[list[dict]]:
    return st.lists(st.fixed_dictionaries({"bbox": a_box(), **fields}), max_size=most)


@st.composite
def evaluations(draw: st.DrawFn) -> tuple[dict, list[dict]]:
    """Ground truth with crowds and areas of its own, and detections with many equal scores."""
    images = draw(st.lists(st.integers(-3, 2**62), min_size=1, max_size=3, unique=True))
    categories = draw(st.lists(st.integers(0, 9), min_size=1, max_size=3, unique=True))
    place = {"image_id": st.sampled_from(images), "category_id": st.sampled_from(categories)}
    areas = st.sampled_from([0, 1023.9, 1024, 1024.1, 9216, 9216.1, 1e5])
    annotations = draw(some(12, **place))
    for annotation in annotations:
        annotation |= draw(st.sampled_from([{}, {}, {"iscrowd": 1}, {"iscrowd": 0}]))
        annotation |= draw(st.one_of(st.just({}), areas.map(lambda area: {"area": area})))
    scores = st.one_of(st.sampled_from([0.0, -0.0, 0.5, 1.0]), st.floats(-1, 1, width=32))
    truth = {
        "images": [{"id": key} for key in images],
        "categories": [{"id": key, "name": str(key)} for key in categories],
        "annotations": annotations,
    }
    return truth, draw(some(25, **place, score=scores))


@settings(max_examples=200)
@given(evaluations())
def test_equals_pycocotools_on_anything(evaluation: tuple[dict, list[dict]]) -> None:
    assert_equal(*evaluation, [name for name in EVALUATORS if not MISSING[name]])


def crowded(count: int) -> tuple[dict, list[dict]]:
    """One image of one class with 30 boxes, and more detections than the 100 that count."""
    rng = np.random.default_rng(0)
    boxes = np.concatenate([rng.integers(0, 400, (30, 2)), rng.integers(20, 120, (30, 2))], axis=1)
    moved = boxes[rng.integers(0, 30, count)] + rng.normal(0, 3, (count, 4))
    truth = {
        "images": [{"id": 1}],
        "categories": [{"id": 1, "name": "cell"}],
        "annotations": [{"image_id": 1, "category_id": 1, "bbox": b} for b in boxes.tolist()],
    }
    found = [
        {"image_id": 1, "category_id": 1, "bbox": box, "score": score}
        for box, score in zip(moved.tolist(), rng.integers(0, 50, count).tolist(), strict=True)
    ]
    return truth, found


@each_evaluator
def test_equals_pycocotools_with_more_than_100_detections_an_image(evaluator: str) -> None:
    assert_equal(*crowded(400), [evaluator])


@each_evaluator
@pytest.mark.parametrize("empty", ["images", "categories", "annotations", "detections"])
def test_equals_pycocotools_on_empty_lists(ground_truth: dict, evaluator: str, empty: str) -> None:
    detections = [] if empty != "annotations" else detections_of(ground_truth)
    if empty != "detections":
        ground_truth |= {empty: []}
    assert_equal(ground_truth, detections, [evaluator])


@each_evaluator
@pytest.mark.parametrize("name", ["coco_val2014_100_fakebbox", "voc2012_100_real_detector"])
def test_equals_pycocotools_on_published_files(data_dir: Path, name: str, evaluator: str) -> None:
    truth, detections, expected = (
        json.loads((data_dir / "eval_pairs" / name / file).read_text())
        for file in ("gt.json", "dt.json", "expected_pycocotools.json")
    )
    scores = evaluate_detections(truth, detections, evaluator=evaluator)
    assert scores["stats"] == expected["stats"]
    assert scores["per_class_AP"] == expected["per_class_AP"]
    assert scores.keys() == expected.keys()
    assert scores["tool"].startswith(EVALUATORS[evaluator].package + " ")


@each_evaluator
def test_other_numbers_of_detections(evaluator: str) -> None:
    truth, detections = crowded(400)
    scores = evaluate_detections(
        truth, detections, evaluator=evaluator, max_detections=[5, 50, 300]
    )["stats"]
    curves = plain_pycocotools(truth, detections, most=[5, 50, 300]).eval
    names = [*STATS[:6], "AR5", "AR50", "AR300", *STATS[9:]]
    assert list(scores) == names
    recall = curves["recall"][..., 0, 0, :].mean(axis=0)
    assert [scores[name] for name in names[6:9]] == pytest.approx(recall, abs=1e-12)
    assert scores["AP"] == pytest.approx(curves["precision"][..., 0, 0, 2].mean(), abs=1e-12)
    usual = evaluate_detections(truth, detections, evaluator=evaluator)["stats"]
    assert scores["AP"] != usual["AP"] and scores["AR300"] > usual["AR100"]


@pytest.mark.parametrize("most", [[], [0, 10], [10, 10], [100, 10]])
def test_numbers_of_detections_that_do_not_rise_are_refused(
    ground_truth: dict, most: list[int]
) -> None:
    with pytest.raises(ValueError, match="max_detections: expected rising numbers above 0"):
        evaluate_detections(ground_truth, [], max_detections=most)


# What the numbers mean -----------------------------------------------------------------------


@each_evaluator
def test_perfect_detections_score_1_even_with_annotation_id_0(
    ground_truth: dict, evaluator: str
) -> None:
    scores = evaluate_detections(ground_truth, detections_of(ground_truth), evaluator=evaluator)
    assert list(scores["stats"]) == list(STATS)
    assert scores["stats"]["AP"] == pytest.approx(1)
    assert scores["per_class_AP"] == pytest.approx({"2": 1, "7": 1})
    assert scores["stats"]["APl"] == -1, "no box is larger than 96^2"


@each_evaluator
def test_ids_that_no_float_holds_are_told_apart(ground_truth: dict, evaluator: str) -> None:
    first = 2**60
    for number, image in enumerate(ground_truth["images"]):
        image["id"] = first + number
    for annotation in ground_truth["annotations"]:
        annotation["image_id"] = first + (annotation["image_id"] == 5)
    detections = detections_of(ground_truth)
    scores = evaluate_detections(ground_truth, detections, evaluator=evaluator)
    assert scores["stats"]["AP"] == pytest.approx(1)
    detections[0]["image_id"] += 1
    scores = evaluate_detections(ground_truth, detections, evaluator=evaluator)
    assert scores["per_class_AP"]["2"] < 0.6


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


@each_evaluator
def test_a_detection_on_a_crowd_is_neither_right_nor_wrong(
    ground_truth: dict, evaluator: str
) -> None:
    ground_truth["annotations"][1]["iscrowd"] = 1
    ground_truth["annotations"].append(
        {"id": 3, "image_id": 5, "category_id": 7, "bbox": [10, 10, 20, 20]}
    )
    detections = detections_of(ground_truth)
    detections[1]["score"] = 0.95  # on the crowd: as a false positive, it would come first
    scores = evaluate_detections(ground_truth, detections, evaluator=evaluator)
    assert scores["per_class_AP"]["7"] == pytest.approx(1)


@each_evaluator
def test_arguments_are_left_as_they_were(ground_truth: dict, evaluator: str) -> None:
    detections = detections_of(ground_truth)
    columns = Found.from_records(detections, "detections")
    before = json.dumps([ground_truth, detections])
    by_records = evaluate_detections(ground_truth, detections, evaluator=evaluator)
    assert evaluate_detections(ground_truth, columns, evaluator=evaluator) == by_records
    assert json.dumps([ground_truth, detections]) == before
    assert columns.image_ids.tolist() == [0, 0, 5]


# Bad input -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_id": 77}, "detection 1: image_id 77 is not an image"),
        ({"image_id": [0]}, r"detection 1: image_id \[0\]; expected an integer"),
        ({"category_id": 3}, "detection 1: category_id 3 is not a category"),
        ({"bbox": [1, 2, 3, float("nan")]}, "detection 1: bbox .*; expected four finite numbers"),
        ({"bbox": [1, 2, -3, 4]}, "detection 1: bbox .*; expected .*, not corners"),
        ({"score": float("inf")}, "detection 1: score inf; expected a finite number"),
    ],
)
def test_a_bad_detection_is_named(ground_truth: dict, change: dict, message: str) -> None:
    detections = detections_of(ground_truth)
    detections[1].update(change)
    with pytest.raises(UserError, match=f"dt.json: {message}"):
        evaluate_detections(ground_truth, detections, "dt.json")


def test_ground_truth_with_ids_that_are_no_integers_is_refused(ground_truth: dict) -> None:
    ground_truth["images"][1]["id"] = "5"
    with pytest.raises(UserError, match="ground truth: image 1: id '5'; expected an integer"):
        evaluate_detections(ground_truth, [])


def test_an_evaluator_that_is_unknown_or_missing_is_named(
    ground_truth: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match="'coco': expected one of pycocotools, ultrafast"):
        evaluate_detections(ground_truth, [], evaluator="coco")
    monkeypatch.setattr("focaldet.scoring.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r'ultrafast-pycocotools is not .*"focaldet\[fast-eval\]"'):
        check_evaluator("ultrafast")
