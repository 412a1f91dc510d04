"""The documentation's pictures: drawn by their operators, readable, and the same bytes twice."""

from __future__ import annotations

import importlib
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from typing import Any

import pytest

from focaldet import ops

pytest.importorskip("matplotlib")
pytestmark = pytest.mark.usefixtures("docs")

SVG = "{http://www.w3.org/2000/svg}"
# What somebody must be able to read in each (matplotlib leaves the text of paths as comments).
TEXTS = {
    "sigmoid_focal_loss": ["gamma = 0 .cross entropy", "gamma = 5", "d loss / d x"],
    "quality_focal_loss": ["y = 0.9", "predicted quality"],
    "varifocal_loss": ["negative, y = 0", "positive, y = 0.9"],
    "softmax_focal_loss": ["gamma = 5", "of the label", "of the class with logit 1"],
    "retinanet_loss": ["smooth_l1, beta = 0.1", "^l1$", "giou", "diou", "ciou"],
    "box_iou": [r"a\[2\]", r"b\[1\]", r"0\.\d\d"],
    "encode_boxes": [r"dx = \+29 / 56 = \+0\.518", r"dh = ln\(52 / 48\)"],
    "decode_boxes": ["exp", r"ln\(1000 / 16\)"],
    "generate_anchors": ["16 x 16 positions", "8 x 8 positions"],
    "match_anchors": [r"foreground: [1-9]\d* of 2880 anchors", r"ignored: [1-9]\d*"],
    "retinanet_postprocess": [r"scores above 0.4: [1-9]\d* of 8640", "detections: [1-9]"],
    "nms": ["before: 40 boxes", "nms at 0.5 keeps 5"],
    "batched_nms": ["before: 60 boxes", r"nms keeps \d", r"batched_nms keeps \d\d", "triangle"],
    "nms_padded": ["image 1", "count 5", "-1"],
    "nms_match": ["keep", "match"],
    "soft_nms": ["soft_nms, gaussian", "nms at 0.3"],
}
WITH_PIXELS = {
    *("generate_anchors", "match_anchors", "retinanet_postprocess", "box_iou"),
    *("nms", "batched_nms", "nms_padded", "nms_match"),
}


@pytest.fixture(scope="module")
def drawn(docs: None) -> dict[str, bytes]:
    return importlib.import_module("docs.pictures").draw_all()


def test_every_operator_that_has_one_is_listed_here(drawn: dict[str, bytes]) -> None:
    assert drawn.keys() == TEXTS.keys()
    assert drawn.keys() <= set(ops.__all__)


@pytest.mark.parametrize("name", TEXTS)
def test_a_picture_says_what_it_should(name: str, drawn: dict[str, bytes]) -> None:
    root = ElementTree.fromstring(drawn[name])
    assert root.tag == f"{SVG}svg"
    said = "\n".join(re.findall(r"<!-- (.*?) -->", drawn[name].decode()))
    for text in TEXTS[name]:
        assert re.search(text, said, re.M), f"{text!r} is not in\n{said}"
    assert (root.find(f".//{SVG}image") is not None) == (name in WITH_PIXELS)
    assert len(list(root.iter(f"{SVG}path"))) > 10
    assert len(drawn[name]) < 100_000
    assert b"<dc:date>" not in drawn[name]


def test_twice_the_same_bytes(drawn: dict[str, bytes]) -> None:
    importlib.import_module("docs.pictures.scene").scene.cache_clear()
    again = importlib.import_module("docs.pictures").draw_all()
    assert [name for name in drawn if drawn[name] != again[name]] == []


@pytest.mark.parametrize("name", TEXTS)
def test_the_operator_draws_its_picture(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A picture that computed its content otherwise would stay as it is when the operator errs."""
    calls = 0

    def counted(operator: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal calls
            calls += 1
            return operator(*args, **kwargs)

        return call

    monkeypatch.setattr(ops, name, counted(getattr(ops, name)))
    importlib.import_module("docs.pictures").PICTURES[name]()
    assert calls > 0
