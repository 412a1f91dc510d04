"""examples/ultralytics_nms.py against ultralytics' own function, and in a model of its."""

from __future__ import annotations

import os
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

# Before ultralytics, which suppresses with torchvision's function if that is there already.
pytest.importorskip("torchvision", reason="torchvision is not installed")
os.environ |= {"YOLO_OFFLINE": "true", "YOLO_AUTOINSTALL": "false"}  # no reports, no pip
pytest.importorskip("ultralytics", reason="ultralytics is not installed")
Recipe = Callable[[str], ModuleType]


def raw_output(images: int = 3, classes: int = 5, extra: int = 0, rows: int = 400) -> Tensor:
    """[images, 4 + classes + extra, rows] with boxes on half pixels, whose shift by class is exact,
    and different scores, whose order is certain. The second image has no candidate."""
    out = torch.rand(images, 4 + classes + extra, rows)
    out[:, :2] = (out[:, :2] * 200).round()
    out[:, 2:4] = (out[:, 2:4] * 60 + 20).round()
    for scores in out[:, 4 : 4 + classes]:
        ranks = torch.randperm(classes * rows) + 1
        scores.copy_(ranks.view(classes, rows) / (classes * rows + 1))
    out[1:2, 4 : 4 + classes] *= 0.01
    return out


def check(recipe: Recipe, prediction: Any, **arguments: Any) -> list[Tensor]:
    from ultralytics.utils import nms

    theirs, their_rows = nms.non_max_suppression(prediction, return_idxs=True, **arguments)
    with recipe("ultralytics_nms").accelerate_nms() as swap:
        assert "ultralytics.utils.nms.non_max_suppression" in swap.replaced
        ours, rows = nms.non_max_suppression(prediction, return_idxs=True, **arguments)
        alone = nms.non_max_suppression(prediction, **arguments)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0)
    torch.testing.assert_close(alone, theirs, rtol=0, atol=0)
    assert [r.tolist() for r in rows] == [r.flatten().tolist() for r in their_rows]
    return ours


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"conf_thres": 0.001, "iou_thres": 0.7, "max_det": 1000},
        {"multi_label": True, "conf_thres": 0.4},
        {"classes": [1, 3]},
        {"classes": [1, 3], "multi_label": True, "conf_thres": 0.4},
        {"agnostic": True},
        {"max_det": 7},
    ],
    ids=str,
)
def test_the_same_detections(recipe: Recipe, arguments: dict[str, Any]) -> None:
    found = check(recipe, raw_output(), **arguments)
    assert len(found[0]) > 5 and len(found[2]) > 5
    assert (len(found[1]) == 0) == (arguments.get("conf_thres", 0.25) > 0.01)


def test_further_columns_go_along(recipe: Recipe) -> None:
    """Those of masks and key points."""
    assert check(recipe, raw_output(extra=3), nc=5)[0].shape[1] == 9


def test_half(recipe: Recipe) -> None:
    """Few enough scores for float16 to tell apart."""
    assert check(recipe, [raw_output(rows=100).half(), "losses"])[0].dtype == torch.float32


@pytest.mark.parametrize("shape", [(0, 9, 10), (2, 9, 0), (2, 5, 10)])
def test_small_shapes(recipe: Recipe, shape: tuple[int, ...]) -> None:
    """No images, no rows, one class."""
    check(recipe, raw_output(shape[0], shape[1] - 4, rows=shape[2]), multi_label=True)


def test_classes_far_apart(recipe: Recipe) -> None:
    """Where a shift by class in float32 rounds boxes, ours still suppresses the box of IoU 0.6: not
    compared with theirs, which is the one that is wrong."""
    prediction = torch.zeros(1, 4 + 3000, 2)
    prediction[0, :4] = torch.tensor([[10.0, 10.0], [10.0, 10.0], [1.0, 1.0], [1.0, 0.6]])
    prediction[0, -1] = torch.tensor([0.9, 0.8])
    (found,) = recipe("ultralytics_nms").non_max_suppression(prediction, iou_thres=0.55)
    assert found[:, 4].tolist() == [pytest.approx(0.9)]


def test_what_is_handed_on(recipe: Recipe) -> None:
    rotated = raw_output(extra=1)
    assert check(recipe, rotated, nc=5, rotated=True)[0].shape[1] == 7
    final = torch.rand(2, 30, 6)  # of an end-to-end model
    assert len(check(recipe, final, conf_thres=0.5, classes=[0])) == 2


def test_bad_threshold(recipe: Recipe) -> None:
    with pytest.raises(ValueError, match=r"conf_thres: expected a number in \[0, 1\], got 2"):
        recipe("ultralytics_nms").non_max_suppression(raw_output(), conf_thres=2)


def test_a_model(recipe: Recipe) -> None:
    """YOLO11n with random weights."""
    from ultralytics import YOLO

    image = (torch.rand(96, 96, 3) * 255).byte().numpy()
    model = YOLO("yolo11n.yaml")
    arguments = {"imgsz": 96, "conf": 1e-6, "iou": 0.3, "verbose": False, "device": "cpu"}
    theirs = model.predict(image, **arguments)[0].boxes.data
    with recipe("ultralytics_nms").accelerate_nms():
        ours = model.predict(image, **arguments)[0].boxes.data
    assert len(ours) > 5
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


def test_the_script_runs(recipe: Recipe, capsys: pytest.CaptureFixture[str]) -> None:
    recipe("ultralytics_nms").main()
    assert "detections in 4 images" in capsys.readouterr().out
