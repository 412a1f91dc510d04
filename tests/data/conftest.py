"""A small COCO data set on disk, to be made wrong in one place by each test."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from focaldet.data import CocoDataset


@pytest.fixture
def coco(tmp_path: Path) -> SimpleNamespace:
    """Three 60 x 40 images (ids 0, 7, 3; the last without boxes), two categories (ids 0, 5).

    `content` is the JSON content, free to be changed; `load(**options)` writes it and reads it
    back; `image(name, ...)` writes an image.
    """
    folder = tmp_path / "images"
    folder.mkdir()

    def image(name: str, width: int = 60, height: int = 40, seed: int = 0) -> Path:
        pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
        Image.fromarray(pixels).save(folder / name)
        return folder / name

    content: dict[str, Any] = {
        "images": [
            {"id": image_id, "file_name": f"{image_id}.png", "width": 60, "height": 40}
            for image_id in (0, 7, 3)
        ],
        "annotations": [
            annotation(0, image_id=7, category_id=5, bbox=[10, 5, 20, 30]),
            annotation(4, image_id=0, category_id=0, bbox=[0.5, 1.25, 10.5, 8], area=40.5),
            annotation(2, image_id=7, category_id=0, bbox=[0, 0, 60, 40], iscrowd=1),
            annotation(9, image_id=7, category_id=0, bbox=[30, 10, 5, 5]),
        ],
        "categories": [{"id": 5, "name": "five"}, {"id": 0, "name": "zero"}],
    }
    for entry in content["images"]:
        image(entry["file_name"], seed=entry["id"])

    def load(**options: Any) -> CocoDataset:
        file = tmp_path / "instances.json"
        file.write_text(json.dumps(content))
        return CocoDataset(file, folder, **options)

    return SimpleNamespace(
        content=content, load=load, image=image, folder=folder, file=tmp_path / "instances.json"
    )


def annotation(annotation_id: int, **fields: Any) -> dict[str, Any]:
    return {"id": annotation_id, **fields}


@pytest.fixture
def one_line() -> Callable[[BaseException], str]:
    """The message of an error, checked to be one line."""

    def message(error: BaseException) -> str:
        text = str(error)
        assert text and "\n" not in text, f"not one line: {text!r}"
        return text

    return message
