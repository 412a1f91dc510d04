"""What a page shows is what the detector does: its detections, candidates, matches, to the bit."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from noise import noise
from PIL import Image
from tiny_runs import tiny_model

from focaldet.checkpoint import Description, save_checkpoint
from focaldet.detect import coco_records, detect
from focaldet.explain import look
from focaldet.explain.look import Look
from focaldet.models import RetinaNet, for_inference
from focaldet.ops import AnchorGrid, box_iou, match_anchors

NAMES = ["ant", "bee", "cat"]
TARGET = {
    "boxes": torch.tensor([[10.0, 6, 90, 50], [60, 20, 120, 70]]),
    "labels": torch.tensor([0, 2]),
}


@pytest.fixture
def picture() -> Image.Image:
    """Not of the model's size."""
    return noise((150, 97), 90, seed=2)


@pytest.fixture
def model() -> RetinaNet:
    return tiny_model(score_thresh=0.0101, topk_candidates=300, detections_per_img=40).eval()


def seen(model: RetinaNet, picture: Image.Image, threshold: float, target: object = TARGET) -> Look:
    ready = for_inference(model)
    return look(ready, picture, target, threshold, name="x", weights="w", class_names=NAMES)


def thresholds(model: RetinaNet, picture: Image.Image) -> list[float]:
    """Below all candidates, and between them."""
    scores = seen(model, picture, 0.0101).scored["scores"]
    return [0.0101, float(scores[20]), float((scores[5] + scores[6]) / 2), 0.9]


def test_detections_are_those_of_the_command(
    model: RetinaNet, picture: Image.Image, tmp_path: Path
) -> None:
    weights = tmp_path / "w.safetensors"
    save_checkpoint(weights, model.state_dict(), Description(model.config, NAMES, [1, 2, 3]))
    picture.save(tmp_path / "x.png")
    numbers = []
    for i, threshold in enumerate(thresholds(model, picture)):
        written = detect([tmp_path / "x.png"], weights, tmp_path / f"{i}", threshold)
        (record,) = json.loads(written.read_text())
        for found in record["detections"]:
            del found["name"]
        mine = coco_records(seen(model, picture, threshold).detections, [1, 2, 3])
        assert mine == record["detections"]
        numbers.append(len(mine))
    assert numbers == [40, 20, 6, 0]


def test_an_image_is_enlarged_once(picture: Image.Image, tmp_path: Path) -> None:
    """By a model that limits how far: what `focaldet detect` finds then."""
    size = {"min_size": 256, "max_size": 256, "max_scale": 1.25}
    model = tiny_model(**size, score_thresh=0.0101, detections_per_img=40).eval()
    found = seen(model, picture, 0.0101)
    assert found.anatomy.size == (121, 188)  # 1.25 times the picture's
    weights = tmp_path / "w.safetensors"
    save_checkpoint(weights, model.state_dict(), Description(model.config, NAMES, [1, 2, 3]))
    picture.save(tmp_path / "x.png")
    (record,) = json.loads(
        detect([tmp_path / "x.png"], weights, tmp_path / "out", 0.0101).read_text()
    )
    for each in record["detections"]:
        del each["name"]
    assert coco_records(found.detections, [1, 2, 3]) == record["detections"] != []


def test_candidates_are_suppressed_by_a_better_box_of_their_class(
    model: RetinaNet, picture: Image.Image
) -> None:
    found = seen(model, picture, 0.5).candidates
    kept = found.match == torch.arange(len(found.match))
    assert torch.equal(kept.nonzero().flatten(), found.keep.sort().values)
    lost = (~kept).nonzero().flatten()
    assert 100 < len(lost) and len(found.keep) > 40
    by = found.match[lost]
    assert (found.labels[lost] == found.labels[by]).all()
    assert (found.scores[lost] <= found.scores[by]).all()
    assert (box_iou(found.boxes, found.boxes)[lost, by] > 0.5 - 1e-5).all()


def test_anchors_are_matched_as_in_the_loss_and_shown_on_the_picture(
    model: RetinaNet, picture: Image.Image
) -> None:
    anatomy = seen(model, picture, 0.5).anatomy
    width, height = 64, 41  # of the image at the model, which pads it to 64 x 64
    ratio = torch.tensor([150 / width, 97 / height] * 2)
    expected = match_anchors(anatomy.grid, TARGET["boxes"] / ratio, torch.tensor([0, 2]))[0]
    assert torch.equal(anatomy.match, expected.long())
    assert anatomy.size == (height, width)
    assert (expected >= 0).sum() >= 2
    # A foreground anchor lies on its object, in the picture's pixels.
    rows = (expected >= 0).nonzero().flatten()
    ious = box_iou(TARGET["boxes"], anatomy.anchors)[anatomy.match[rows], rows]
    assert (ious > 0.2).all() and (ious > 0.5).any()


def test_the_models_settings_stay(model: RetinaNet, picture: Image.Image) -> None:
    before = {k: v for k, v in vars(model).items() if isinstance(v, int | float)}
    seen(model, picture, 0.3)
    assert {k: v for k, v in vars(model).items() if isinstance(v, int | float)} == before


def test_a_model_from_p2_on(picture: Image.Image) -> None:
    """Its levels keep their names, and its candidates come from all five."""
    sizes = {"sizes": [8, 16, 32, 64, 128], "strides": [4, 8, 16, 32, 64]}
    model = tiny_model(finest_level=2, anchor_grid=AnchorGrid.paper(**sizes), score_thresh=0.0101)
    found = seen(model.eval(), picture, 0.5)
    assert found.level_name(0) == "P2" and found.anatomy.level.unique().tolist() == [0, 1, 2, 3, 4]
    assert (found.anatomy.match >= 0).any()
