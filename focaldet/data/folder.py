"""A data set by its folder alone: the forms that annotated images usually come in."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import UserError
from . import flaws
from .coco import CocoDataset, read_coco
from .dataset import DetectionDataset
from .table import Table
from .voc import VocDataset, read_voc
from .yolo import YoloDataset, read_yolo
from .yolo_layout import has_split, is_yolo, layout

SPLITS = ("train", "val", "test")
YAML = (".yaml", ".yml")

# Of COCO: annotations and images below the folder, by split. The second is COCO's own.
COCO_FORMS = (
    ("instances_{split}.json", "images"),
    ("annotations/instances_{split}2017.json", "{split}2017"),
    ("annotations/instances_{split}.json", "images/{split}"),
    ("annotations/instances_{split}.json", "{split}"),
    ("annotations/instances_{split}.json", "images"),
    ("{split}.json", "images"),
    ("{split}/_annotations.coco.json", "{split}"),
)


class Source(NamedTuple):
    """One split of a data set, not read yet."""

    open: Callable[..., DetectionDataset]  # with the options of `DetectionDataset`
    read: Callable[[flaws.Report], Table]
    images: Path  # the folder that the table's file names are relative to


def names_a_folder(path: str | Path) -> bool:
    """Whether a data set's folder is meant, or the data.yaml that stands for one, and not a file of
    annotations. It may not be there."""
    path = Path(path)
    return path.suffix in YAML or not (path.is_file() or path.suffix == ".json")


def open_folder(folder: str | Path, split: str, **options: Any) -> DetectionDataset:
    """The split ("train", "val", ...) of a data set in a folder of one of these forms:

    - Pascal VOC: `ImageSets/Main/<split>.txt`, with `Annotations` and `JPEGImages`;
    - COCO: annotations and images under one of the names of COCO_FORMS;
    - YOLO: data.yaml or classes.txt, with images and labels (`focaldet.data.yolo_layout`).

    `options`: those of `DetectionDataset`. Raises `UserError` where the folder has no such split,
    naming those that it has.
    """
    return source_of(folder, split).open(**options)


def source_of(folder: str | Path, split: str) -> Source:
    """What `open_folder` opens."""
    there = splits(folder)
    source = there.get(split) or _found(Path(folder), split)  # also one of another name
    if source is not None:
        return source
    has = f"it has {' and '.join(there)}" if there else "no form of a data set is known in it"
    raise UserError(
        f"{folder}: no split {split!r}: {has}; expected ImageSets/Main/{split}.txt (Pascal VOC), "
        f"instances_{split}.json and images (COCO), or data.yaml and images (YOLO)"
    )


def splits(folder: str | Path) -> dict[str, Source]:
    """Those of SPLITS that a folder, or YOLO's data.yaml, has. `UserError` where there is none."""
    folder = Path(folder)
    if not (folder.is_dir() or (folder.is_file() and folder.suffix in YAML)):
        raise UserError(f"{folder}: no such folder; expected a data set")
    found = ((split, _found(folder, split)) for split in SPLITS)
    return {split: source for split, source in found if source is not None}


def coco_source(file: str | Path, images: str | Path) -> Source:
    return Source(partial(CocoDataset, file, images), partial(read_coco, file), Path(images))


def _found(folder: Path, split: str) -> Source | None:
    if (folder / "ImageSets" / "Main" / f"{split}.txt").is_file():
        read_table = partial(read_voc, folder, split, None)
        return Source(partial(VocDataset, folder, split), read_table, folder / "JPEGImages")
    for forms in COCO_FORMS:
        file, images = (folder / form.format(split=split) for form in forms)
        if file.is_file() and images.is_dir():
            return coco_source(file, images)
    if (folder.is_file() or is_yolo(folder)) and has_split(found := layout(folder), split):
        return Source(
            partial(YoloDataset, folder, split), partial(read_yolo, folder, split), found.folder
        )
    return None
