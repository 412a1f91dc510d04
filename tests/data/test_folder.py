"""Data sets found by their folder: every form, and what is said of a folder that has none."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from focaldet.data import generate_scenes
from focaldet.data.folder import COCO_FORMS, open_folder
from focaldet.errors import UserError


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("folder")
    generate_scenes(folder, images=2, seed=1, size=64, objects=(2, 3))
    return folder


def lay_out(scenes: Path, folder: Path, form: tuple[str, str], split: str) -> None:
    annotations, images = (folder / part.format(split=split) for part in form)
    annotations.parent.mkdir(parents=True, exist_ok=True)
    shutil.copytree(scenes / "images", images, dirs_exist_ok=True)
    shutil.copy(scenes / "instances.json", annotations)


@pytest.mark.parametrize("form", COCO_FORMS)
def test_every_form_of_coco(form: tuple[str, str], scenes: Path, tmp_path: Path) -> None:
    lay_out(scenes, tmp_path, form, "val")
    dataset = open_folder(tmp_path, "val")
    assert len(dataset) == 2 and dataset[1][0].shape == (3, 64, 64)


def test_pascal_voc(tmp_path: Path) -> None:
    for name in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (tmp_path / name).mkdir(parents=True)
    generate_scenes(tmp_path / "scenes", images=1, seed=1, size=64, objects=(2, 3))
    (picture,) = (tmp_path / "scenes" / "images").iterdir()
    shutil.copy(picture, tmp_path / "JPEGImages" / f"a{picture.suffix}")
    (tmp_path / "Annotations" / "a.xml").write_text(
        "<annotation><size><width>64</width><height>64</height><depth>3</depth></size><object>"
        "<name>disc</name><bndbox><xmin>1</xmin><ymin>2</ymin><xmax>9</xmax><ymax>8</ymax></bndbox>"
        "</object></annotation>"
    )
    (tmp_path / "ImageSets" / "Main" / "train.txt").write_text("a\n")
    assert open_folder(tmp_path, "train")[0][1]["boxes"].tolist() == [[1, 2, 9, 8]]


def test_the_splits_that_are_there_are_named(scenes: Path, tmp_path: Path) -> None:
    lay_out(scenes, tmp_path, COCO_FORMS[0], "train")
    with pytest.raises(UserError, match="no split 'val': it has train; expected .*VOC.*COCO"):
        open_folder(tmp_path, "val")
    with pytest.raises(UserError, match="no form of a data set is known in it"):
        open_folder(tmp_path / "images", "val")
    with pytest.raises(UserError, match="no such folder"):
        open_folder(tmp_path / "nowhere", "val")


def test_options_are_handed_on(scenes: Path, tmp_path: Path) -> None:
    lay_out(scenes, tmp_path, COCO_FORMS[0], "train")
    assert open_folder(tmp_path, "train", skip_bad_images=True).skip_bad_images
