"""A data set by its folder alone: the forms that annotated images usually come in."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..errors import UserError
from .coco import CocoDataset
from .dataset import DetectionDataset
from .voc import VocDataset

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


def open_folder(folder: str | Path, split: str, **options: Any) -> DetectionDataset:
    """The split ("train", "val", ...) of a data set in a folder of one of these forms:

    - Pascal VOC: `ImageSets/Main/<split>.txt`, with `Annotations` and `JPEGImages`;
    - COCO: annotations and images under one of the names of COCO_FORMS.

    `options`: those of `DetectionDataset`. Raises `UserError` where the folder has no such split,
    naming those that it has.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; expected a data set")
    make = _found(folder, split)
    if make is None:
        others = [name for name in ("train", "val", "test") if _found(folder, name)]
        has = f"it has {' and '.join(others)}" if others else "no form of a data set is known in it"
        raise UserError(
            f"{folder}: no split {split!r}: {has}; expected ImageSets/Main/{split}.txt (Pascal "
            f"VOC), or instances_{split}.json and images (COCO)"
        )
    return make(**options)


def _found(folder: Path, split: str) -> Callable[..., DetectionDataset] | None:
    """What opens the split, if it is there."""
    if (folder / "ImageSets" / "Main" / f"{split}.txt").is_file():
        return lambda **options: VocDataset(folder, split, **options)
    for forms in COCO_FORMS:
        file, pictures = (folder / form.format(split=split) for form in forms)
        if file.is_file() and pictures.is_dir():
            return lambda file=file, pictures=pictures, **options: CocoDataset(
                file, pictures, **options
            )
    return None
