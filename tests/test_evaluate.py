"""A model's scores are those of its detections; what cannot be evaluated is said before it runs."""

from __future__ import annotations

import pytest
import torch

from focaldet.data import CocoDataset, eval_transform, generate_scenes
from focaldet.detect import coco_records, detect_batch
from focaldet.errors import UserError
from focaldet.evaluate import (
    detect_dataset,
    evaluate_detections,
    evaluate_model,
    match_categories,
)
from focaldet.models import RetinaNet, for_inference


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> CocoDataset:
    folder = tmp_path_factory.mktemp("evaluate") / "set"
    generate_scenes(folder, images=3, seed=1, size=64, objects=(3, 5))
    return CocoDataset(folder / "instances.json", folder / "images", transform=eval_transform(64))


@pytest.fixture(scope="module")
def model() -> RetinaNet:
    """Without training: its boxes are anchors, some of which are near an object by chance."""
    torch.manual_seed(0)
    sizes = {"min_size": 64, "max_size": 64, "width": 16, "fpn_channels": 16, "head_depth": 1}
    return RetinaNet(3, "resnet18", score_thresh=0.0, **sizes).eval()


@pytest.mark.parametrize("labels", [[1, 2, 3], [3, 1, 2]])
@pytest.mark.parametrize("evaluator", ["pycocotools", "ultrafast"])
def test_a_models_scores_are_those_of_its_detections(
    model: RetinaNet, dataset: CocoDataset, labels: list[int], evaluator: str
) -> None:
    if evaluator == "ultrafast":
        pytest.importorskip("ultrafast_pycocotools", reason="ultrafast-pycocotools is missing")
    records = []
    for image, target in (dataset[i] for i in range(len(dataset))):
        (found,) = detect_batch(for_inference(model), [image], [target["original_size"]])
        records += [{"image_id": target["image_id"], **r} for r in coco_records(found, labels)]
    scores = evaluate_model(model, dataset, labels, batch_size=1, evaluator=evaluator)
    expected = evaluate_detections(dataset.to_coco(), records)
    assert scores["tool"].startswith(evaluator)
    assert {**scores, "tool": expected["tool"]} == expected
    assert scores["stats"]["AR100"] > 0, "there is something to compare"


def test_every_image_is_there_with_the_data_sets_own_categories(
    model: RetinaNet, dataset: CocoDataset
) -> None:
    found = detect_dataset(model, dataset, batch_size=2)
    assert set(found.image_ids) == {dataset[i][1]["image_id"] for i in range(3)}
    assert set(found.category_ids) <= set(dataset.category_ids)


def test_an_unknown_evaluator_is_refused_before_the_model_runs(dataset: CocoDataset) -> None:
    with pytest.raises(UserError, match="evaluator 'coco'"):
        evaluate_model(None, dataset, evaluator="coco")


def test_classes_are_matched_by_name(dataset: CocoDataset) -> None:
    names = dataset.class_names
    assert match_categories(names[::-1], dataset, "w") == dataset.category_ids[::-1]
    with pytest.raises(UserError, match="w: a checkpoint for the classes ant"):
        match_categories(["ant"], dataset, "w")
