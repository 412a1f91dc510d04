"""COCO annotation files (https://cocodataset.org/#format-data, object detection)."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import UserError
from .dataset import DetectionDataset, Table
from .transforms import Transform


class CocoDataset(DetectionDataset):
    """A data set annotated in COCO's JSON format. Items and errors: see `DetectionDataset`.

    Ids may start at 0 and have gaps. Boxes are [x, y, width, height] in pixels, in the frame of
    the image's "width" and "height" (see `read_image` on photos with an EXIF orientation). An
    annotation without "area" has that of its box, one without "iscrowd" is no crowd.

    Args:
        annotation_file: The JSON file.
        image_folder: The folder that its file names are relative to.
        transform, skip_bad_images, skip_bad_boxes: See `DetectionDataset`.

    Raises:
        UserError: Also for a file that is not of this format, naming the first entry that is not.
    """

    def __init__(
        self,
        annotation_file: str | Path,
        image_folder: str | Path,
        *,
        transform: Transform | None = None,
        skip_bad_images: bool = False,
        skip_bad_boxes: bool = False,
    ) -> None:
        super().__init__(
            read_coco(annotation_file),
            image_folder,
            transform=transform,
            skip_bad_images=skip_bad_images,
            skip_bad_boxes=skip_bad_boxes,
        )


def read_coco(annotation_file: str | Path) -> Table:
    """The images and objects of a COCO JSON file; every entry is checked, boxes for form alone."""
    source = str(annotation_file)
    images, annotations, categories = (
        _Records(source, key, entries) for key, entries in _sections(annotation_file).items()
    )

    category_ids, class_names = categories.ids(), categories.column("name", _is_text, "a text")
    order = sorted(range(len(category_ids)), key=category_ids.__getitem__)
    category_ids = [category_ids[row] for row in order]

    image_ids = images.ids()
    sizes = [images.column(key, _is_positive, "an integer > 0") for key in ("height", "width")]

    object_ids = annotations.ids()
    expected = "four numbers, [x, y, width, height] in pixels"
    boxes = np.array(annotations.column("bbox", _is_box, expected), np.float64).reshape(-1, 4)
    given = annotations.column("area", _is_area, "a number >= 0", default=None)
    areas = np.array(given, np.float64)  # None: NaN
    with np.errstate(over="ignore", invalid="ignore"):  # of boxes that are not finite
        areas = np.where(np.isnan(areas), boxes[:, 2] * boxes[:, 3], areas)
    crowd = annotations.column("iscrowd", lambda value: value in (0, 1), "0 or 1", default=0)

    return Table(
        source=source,
        image_ids=image_ids,
        file_names=images.column("file_name", _is_text, "a text"),
        sizes=np.array(sizes, np.int64).T.reshape(-1, 2),
        category_ids=category_ids,
        class_names=[class_names[row] for row in order],
        image_rows=annotations.references("image_id", image_ids, "images"),
        labels=annotations.references("category_id", category_ids, "categories"),
        boxes=boxes,
        areas=areas,
        crowd=np.array(crowd, bool),
        object_ids=np.array(object_ids, np.int64),
    )


def _sections(annotation_file: str | Path) -> dict[str, list[Any]]:
    """The three lists of the file."""
    name = f"annotation file {str(annotation_file)!r}"
    expected = "expected a JSON object with the lists images, annotations and categories"
    try:
        with open(annotation_file, encoding="utf-8-sig") as file:
            content = json.load(file)
    except OSError as error:
        raise UserError(f"{name} cannot be opened: {error.strerror}; {expected}") from None
    except (ValueError, RecursionError) as error:  # ValueError: not UTF-8, or not JSON
        raise UserError(f"{name} is not JSON ({error}); {expected}") from None
    if not isinstance(content, dict):
        raise UserError(f"{name} holds {_shown(content)}; {expected}")
    sections: dict[str, list[Any]] = {}
    for key in ("images", "annotations", "categories"):
        entries = content.get(key)
        if not isinstance(entries, list):
            raise UserError(f"{name} has no list {key!r}; {expected}")
        sections[key] = entries
    return sections


_MISSING = object()


class _Records:
    """One of the lists, read by column; an entry of another form than expected is named."""

    def __init__(self, source: str, section: str, entries: Sequence[Any]) -> None:
        self.source, self.section, self.entries = source, section, entries
        for row, entry in enumerate(entries):
            if not isinstance(entry, dict):
                where = f"{source}: {section}[{row}]"
                raise UserError(f"{where} is {_shown(entry)}; expected an object")

    def column(
        self,
        key: str,
        accepts: Callable[[Any], bool],
        expected: str,
        default: Any = _MISSING,
    ) -> list[Any]:
        """The values under `key`; without a `default` every entry must have it."""
        values = [entry.get(key, default) for entry in self.entries]
        for row, value in enumerate(values):
            if value is _MISSING:
                raise UserError(f"{self._name(row)} has no {key!r}; expected {expected}")
            if not accepts(value):
                found = f"{self._name(row)}: {key!r} is {_shown(value)}"
                raise UserError(f"{found}; expected {expected}")
        return values

    def ids(self) -> list[int]:
        """The ids, which must differ."""
        ids = self.column("id", _is_id, "an integer")
        if len(set(ids)) < len(ids):
            twice = Counter(ids).most_common(1)[0][0]
            raise UserError(f"{self._name(ids.index(twice))} exists twice; expected unique ids")
        return ids

    def references(self, key: str, ids: Sequence[int], section: str) -> np.ndarray:
        """The values under `key`, ids of another list, as positions in it: int64 [entries]."""
        rows = {entry_id: row for row, entry_id in enumerate(ids)}
        values = self.column(
            key, lambda value: _is_id(value) and value in rows, f"the id of one of the {section}"
        )
        return np.array([rows[value] for value in values], np.int64)

    def _name(self, row: int) -> str:
        """How messages call an entry: by id, or by position where it has none."""
        entry_id = self.entries[row].get("id")
        if not _is_id(entry_id):
            return f"{self.source}: {self.section}[{row}]"
        singular = {"images": "image", "annotations": "annotation", "categories": "category"}
        return f"{self.source}: {singular[self.section]} {entry_id}"


def _is_id(value: Any) -> bool:
    return type(value) is int and abs(value) < 2**63  # not isinstance: a bool is an int too


def _is_positive(value: Any) -> bool:
    return _is_id(value) and value > 0


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and value != ""


def _is_number(value: Any) -> bool:
    return type(value) is float or _is_id(value)


def _is_box(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 4 and all(map(_is_number, value))


def _is_area(value: Any) -> bool:
    return value is None or (_is_number(value) and 0 <= value < float("inf"))


def _shown(value: Any) -> str:
    """A JSON value in a message, cut short: JSON text is one line."""
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:60]}..."
