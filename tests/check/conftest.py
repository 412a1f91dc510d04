"""A clean data set, to be made wrong in one place by each test."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from focaldet import AnchorGrid
from focaldet.check import Detector, Report, check_data
from focaldet.data import Resize
from focaldet.data.folder import splits

SIZE = 160
DETECTOR = Detector(Resize(SIZE, SIZE), AnchorGrid.torchvision([16, 32, 64, 128, 256]))
PLACES = [(4 + 32 * column, 4 + 32 * row) for row in range(4) for column in range(5)]


class Made:
    """Three images to train on and one to validate with, of two classes, 20 boxes each. `train` and
    `val` are COCO's contents, free to be changed, as are the files in `images`."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.images = folder, folder / "images"
        self.images.mkdir()
        categories = [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}]
        self.train: dict[str, Any] = self._part(categories)
        self.val: dict[str, Any] = self._part(categories)
        for number in range(3):
            self.add(self.train, number + 1)
        self.add(self.val, 101)

    def _part(self, categories: list[dict[str, Any]]) -> dict[str, Any]:
        return {"images": [], "annotations": [], "categories": [dict(c) for c in categories]}

    def add(self, part: dict[str, Any], image_id: int) -> None:
        name = f"{image_id}.jpg"
        self.picture(name, image_id)
        image = {"id": image_id, "file_name": name, "width": SIZE, "height": SIZE}
        part["images"].append(image)
        for number, (x, y) in enumerate(PLACES):
            self.box(part, image_id, [x, y, 24, 24], 1 + number % 2)

    def box(self, part: dict[str, Any], image_id: int, bbox: list[float], category: int) -> None:
        number = 1 + max((a["id"] for a in part["annotations"]), default=0)
        part["annotations"].append(
            {"id": number, "image_id": image_id, "category_id": category, "bbox": bbox}
        )

    def picture(
        self, name: str, seed: int, size: tuple[int, int] = (SIZE, SIZE), **how: Any
    ) -> None:
        """Noise, so that no two look alike."""
        pixels = np.random.default_rng(seed).integers(0, 256, (10, 10, 3), np.uint8)
        image = Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC)
        image.convert(how.pop("mode", "RGB")).save(self.images / name, **how)

    def write(self) -> None:
        for name in ("train", "val"):
            if getattr(self, name):
                (self.folder / f"instances_{name}.json").write_text(json.dumps(getattr(self, name)))

    def check(self, detector: Detector = DETECTOR, **options: Any) -> Report:
        self.write()
        return check_data(splits(self.folder), detector, **options)


@pytest.fixture
def detector() -> Detector:
    return DETECTOR


@pytest.fixture
def made(tmp_path: Path) -> Made:
    return Made(tmp_path)
