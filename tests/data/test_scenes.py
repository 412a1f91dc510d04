from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from focaldet.data import CocoDataset, generate_scenes
from focaldet.data.scenes import CLASSES, VISIBLE, _distance, draw_scene
from focaldet.errors import UserError


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_the_same_seed_gives_the_same_bytes_and_another_does_not(tmp_path: Path) -> None:
    for name, seed in [("a", 3), ("b", 3), ("c", 4)]:
        generate_scenes(tmp_path / name, images=3, seed=seed, size=64)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    one, other = (json.loads((tmp_path / name / "instances.json").read_bytes()) for name in "ac")
    assert one["annotations"] != other["annotations"]


def test_annotations_of_a_seed_never_change(tmp_path: Path) -> None:
    """On any machine, under any version of NumPy and Pillow: only integers are annotated."""
    content = json.loads(generate_scenes(tmp_path / "x", images=1, seed=0, size=64).read_bytes())
    first = content["annotations"][:3]
    assert [(a["category_id"], a["bbox"], a["area"]) for a in first] == [
        (2, [8, 0, 25, 25], 372),
        (1, [28, 20, 11, 11], 96),
        (1, [36, 25, 24, 23], 294),
    ]


def test_more_images_extend_a_data_set(tmp_path: Path) -> None:
    few, many = (
        json.loads(generate_scenes(tmp_path / str(n), images=n, seed=1, size=64).read_bytes())
        for n in (2, 4)
    )
    assert many["images"][:2] == few["images"]
    assert many["annotations"][: len(few["annotations"])] == few["annotations"]


def test_a_generated_set_is_a_valid_coco_set(tmp_path: Path) -> None:
    file = generate_scenes(tmp_path / "new" / "set", images=4, seed=0, size=192)
    assert file == tmp_path / "new" / "set" / "instances.json"
    dataset = CocoDataset(file, file.parent / "images")
    assert dataset.class_names == list(CLASSES)
    for image, target in dataset:
        assert image.shape == (3, 192, 192)
        assert 20 <= len(target["boxes"]) <= 60
    sides = np.array([a["bbox"][2:] for a in dataset.to_coco()["annotations"]])
    assert 4 <= sides.min() and sides.max() <= 40
    labels = [a["category_id"] for a in dataset.to_coco()["annotations"]]
    assert min(np.bincount(labels)[1:]) > len(labels) / 6, "classes are balanced"


def scene(seed: int, **style: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    style = {"size": 128, "objects": (20, 60), "object_size": (8, 28)} | style
    return draw_scene(np.random.RandomState(seed), np.random.RandomState(seed + 1), **style)


@pytest.mark.parametrize("seed", range(5))
def test_every_object_is_mostly_visible_and_stands_out(seed: int) -> None:
    picture, labels, owner = scene(seed)
    assert (owner == 0).mean() > 0.3, "much of the picture is background"
    for number in range(1, len(labels) + 1):
        shown = owner == number
        assert shown.sum() >= VISIBLE * np.pi / 4 * 8**2
        rows, columns = np.nonzero(shown)
        around = np.zeros_like(shown)
        around[max(0, rows.min() - 6) : rows.max() + 7, max(0, columns.min() - 6) :][
            :, : np.ptp(columns) + 13
        ] = True
        contrast = picture[shown].mean(0) - picture[around & ~shown].mean(0)
        assert np.linalg.norm(contrast) > 0.1 * 255


def test_an_object_that_is_not_covered_has_the_box_of_its_shape() -> None:
    """A single disc, well inside: its box and area follow from the diameter."""
    found = 0
    for seed in range(30):
        _, labels, owner = scene(seed, size=64, objects=(1, 1), object_size=(20, 20))
        rows, columns = np.nonzero(owner)
        inside = min(rows.min(), columns.min()) > 0 and max(rows.max(), columns.max()) < 63
        if labels.tolist() == [0] and inside:
            found += 1
            assert 19 <= np.ptp(rows) + 1 <= 21 and 19 <= np.ptp(columns) + 1 <= 21
            assert len(rows) == pytest.approx(np.pi * 10**2, rel=0.05)
    assert found >= 2


def test_appearance_does_not_change_the_layout() -> None:
    style = {"size": 64, "objects": (5, 9), "object_size": (8, 20)}
    (one, _, where), (other, _, there) = (
        draw_scene(np.random.RandomState(0), np.random.RandomState(paint), **style)
        for paint in (1, 2)
    )
    assert np.array_equal(where, there) and not np.array_equal(one, other)


@pytest.mark.parametrize("sides", [0, 3, 4])
def test_shapes_of_one_diameter_have_one_area(sides: int) -> None:
    u = np.arange(-100, 100) + 0.5
    inside = _distance(sides, 90, 0.3, u, u[:, None]) <= 0
    assert inside.sum() == pytest.approx(np.pi * 45**2, rel=0.01)


def test_a_folder_in_use_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("precious")
    with pytest.raises(UserError, match="holds something already"):
        generate_scenes(tmp_path, images=1, seed=0, size=64)
    with pytest.raises(UserError, match="holds something already"):
        generate_scenes(tmp_path / "mine.txt", images=1, seed=0, size=64)
    assert contents(tmp_path) == {"mine.txt": b"precious"}
    (tmp_path / "empty").mkdir()
    generate_scenes(tmp_path / "empty", images=1, seed=0, size=64)


def test_an_interrupted_run_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved = []

    def interrupt(self: Image.Image, path: Path, **options: object) -> None:
        saved.append(path)
        if len(saved) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(Image.Image, "save", interrupt)
    with pytest.raises(KeyboardInterrupt):
        generate_scenes(tmp_path / "set", images=3, seed=0, size=64)
    assert os.listdir(tmp_path) == []


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere"
)
def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(UserError, match="cannot write scenes"):
        generate_scenes(tmp_path / "set", images=1, seed=0, size=64)


def test_wrong_arguments_are_refused(tmp_path: Path) -> None:
    for wrong in ({"images": 0}, {"objects": (0, 5)}, {"objects": (9, 5)}, {"object_size": (9, 5)}):
        with pytest.raises(ValueError, match="expected images >= 1 and rising ranges"):
            generate_scenes(tmp_path / "set", **{"images": 1, "seed": 0, **wrong})
