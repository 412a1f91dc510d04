"""COCO annotation files (https://cocodataset.org/#format-data, object detection)."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np

from ..errors import UserError
from . import flaws
from .dataset import DetectionDataset
from .flaws import Flaw
from .table import Table, collector_paused
from .transforms import Transform


class CocoDataset(DetectionDataset):
    """A data set annotated in COCO's JSON format. Items and errors: see `DetectionDataset`.

    Ids may start at 0 and have gaps. Boxes are [x, y, width, height] in pixels, in the frame of
    the image's "width" and "height" (see `read_image` on photos with an EXIF orientation). An
    annotation without "area" has that of its box, one without "iscrowd" is no crowd.

    Args:
        annotation_file: The JSON file.
        image_folder: The folder that its file names are relative to.
        transform, skip_bad_images, skip_bad_boxes, cache: See `DetectionDataset`.

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
        cache: str | Path | None = None,
    ) -> None:
        super().__init__(
            read_coco(annotation_file),
            image_folder,
            transform=transform,
            skip_bad_images=skip_bad_images,
            skip_bad_boxes=skip_bad_boxes,
            cache=cache,
        )


def read_coco(annotation_file: str | Path, report: flaws.Report = flaws.refuse) -> Table:
    """The images and objects of a COCO JSON file; every entry is checked, boxes for form alone.

    Entries that are named to `report`, if that returns, are left out, and so are the annotations of
    such images and categories.
    """
    with collector_paused():
        return _read_coco(annotation_file, report)


def _read_coco(annotation_file: str | Path, report: flaws.Report) -> Table:
    source = str(annotation_file)
    sections = _sections(annotation_file)
    images = _Records(source, "images", sections, report)
    annotations = _Records(source, "annotations", sections, report, images)
    categories = _Records(source, "categories", sections, report)

    category_ids, class_names = categories.ids(), categories.column("name", TEXT)
    order = sorted(np.flatnonzero(categories.good).tolist(), key=category_ids.__getitem__)

    image_ids = images.ids()
    file_names = images.column("file_name", TEXT)
    sizes = [images.column(key, POSITIVE) for key in ("height", "width")]
    kept = np.flatnonzero(images.good).tolist()

    object_ids = annotations.ids()
    boxes = np.array(annotations.column("bbox", BOX), np.float64).reshape(-1, 4)
    areas = np.array(annotations.column("area", AREA, default=None), np.float64)  # None: NaN
    with np.errstate(over="ignore", invalid="ignore"):  # of boxes that are not finite
        areas = np.where(np.isnan(areas), boxes[:, 2] * boxes[:, 3], areas)
    crowd = annotations.column("iscrowd", CROWD, default=0)

    table = Table(
        source=source,
        image_ids=np.array([image_ids[row] for row in kept], np.int64),
        file_names=[file_names[row] for row in kept],
        sizes=np.array(sizes, np.int64).T.reshape(-1, 2)[kept],
        category_ids=[category_ids[row] for row in order],
        class_names=[class_names[row] for row in order],
        image_rows=annotations.references("image_id", images, image_ids, kept),
        labels=annotations.references("category_id", categories, category_ids, order),
        boxes=boxes,
        areas=areas,
        crowd=np.array(crowd, bool),
        object_ids=np.array(object_ids, np.int64),
    )
    good = annotations.good
    return table if good.all() else table.keep(np.flatnonzero(good))


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


@dataclass(frozen=True)
class _Form:
    """What the values of a column may be.

    `accepts_all` looks at all of them (and at the set of their types) with functions that loop in
    C. It may say no to a good column; then `accepts` looks at each, and finds the one to name.
    """

    expected: str
    accepts: Callable[[Any], bool]
    accepts_all: Callable[[list[Any], set[type]], bool]
    stand_in: Any  # of this form: in the place of one that is not, whose entry is left out
    flaw: str = flaws.ENTRY


def _is_id(value: Any) -> TypeGuard[int]:
    return type(value) is int and abs(value) < 2**63  # not isinstance: a bool is an int too


def _is_number(value: Any) -> bool:
    return type(value) is float or _is_id(value)


def _are_boxes(values: list[Any], types: set[type]) -> bool:
    if types != {list} or set(map(len, values)) != {4}:
        return False
    numbers = list(chain.from_iterable(values))
    return {int, float} >= set(map(type, numbers)) and _within(numbers, -(2**62))


def _within(numbers: list[Any], low: float) -> bool:
    """Whether all numbers are at least `low`, none is NaN, and none near the end of int64."""
    array = np.array(numbers, np.float64)
    return bool(((array >= low) & (array < 2**62)).all())


ID = _Form(
    "an integer",
    _is_id,
    lambda values, types: types == {int} and _within(values, -(2**62)),
    0,
)
POSITIVE = _Form(
    "an integer > 0",
    lambda value: _is_id(value) and value > 0,
    lambda values, types: types == {int} and _within(values, 1),
    1,
)
TEXT = _Form(
    "a text",
    lambda value: isinstance(value, str) and value != "",
    lambda values, types: types == {str} and all(values),
    "",
)
BOX = _Form(
    "four numbers, [x, y, width, height] in pixels",
    lambda value: isinstance(value, list) and len(value) == 4 and all(map(_is_number, value)),
    _are_boxes,
    [0, 0, 0, 0],
    flaws.BOX,
)
AREA = _Form(
    "a number >= 0",
    lambda value: value is None or (_is_number(value) and 0 <= value < float("inf")),
    lambda values, types: {int, float} >= types and _within(values, 0),
    None,
)
CROWD = _Form(
    "0 or 1",
    lambda value: value in (0, 1),
    lambda values, types: types == {int} and {0, 1} >= set(values),
    0,
)


_MISSING = object()


class _Records:
    """One of the lists, read by column; an entry of another form than expected is reported."""

    def __init__(
        self,
        source: str,
        section: str,
        sections: Mapping[str, Sequence[Any]],
        report: flaws.Report,
        images: _Records | None = None,  # that the entries are of
    ) -> None:
        self.source, self.section = source, section
        self._report, self._images = report, images
        entries = sections[section]
        self.entries: Sequence[dict[str, Any]] = entries
        self.good = np.ones(len(entries), bool)  # those without a flaw
        if set(map(type, entries)) == {dict}:
            return
        for row, entry in enumerate(entries):
            if not isinstance(entry, dict):
                where = f"{source}: {section}[{row}]"
                message = f"{where} is {_shown(entry)}; expected an object"
                report(Flaw(flaws.ENTRY, message))
        self.entries = [entry for entry in entries if isinstance(entry, dict)]
        self.good = np.ones(len(self.entries), bool)

    def column(self, key: str, form: _Form, default: Any = _MISSING) -> list[Any]:
        """The values under `key`; without a `default` every entry must have it."""
        values = [entry.get(key, default) for entry in self.entries]
        if form.accepts_all(values, set(map(type, values))):
            return values
        for row, value in enumerate(values):
            if value is _MISSING:
                problem = f" has no {key!r}"
            elif form.accepts(value):
                continue
            else:
                problem = f": {key!r} is {_shown(value)}"
            self._reject(row, form.flaw, f"{problem}; expected {form.expected}")
            values[row] = form.stand_in
        return values

    def ids(self) -> list[int]:
        """The ids, which must differ. Of annotations, to which nothing refers, all are kept."""
        ids: list[int] = self.column("id", ID)
        if len(set(ids)) < len(ids):
            rows = np.flatnonzero(self.good).tolist()
            count, seen = Counter(ids[row] for row in rows), set[int]()
            for row in rows:
                if count[ids[row]] > 1 and ids[row] not in seen:
                    self._say(row, flaws.ID, " exists twice; expected unique ids")
                elif ids[row] in seen and self.section != "annotations":
                    self.good[row] = False
                seen.add(ids[row])
        return ids

    def references(
        self, key: str, to: _Records, ids: Sequence[int], order: Sequence[int]
    ) -> np.ndarray:
        """The values under `key`, `ids` of another list, as positions in `order`, which has those
        of its rows that are kept: int64 [entries], -1 for those of a row that is not."""
        rows = dict.fromkeys(ids, -1) | {ids[row]: place for place, row in enumerate(order)}
        known = _Form(
            f"the id of one of the {to.section}",
            lambda value: _is_id(value) and value in rows,
            lambda values, types: types == {int} and rows.keys() >= set(values),
            None,
            flaws.IMAGE if key == "image_id" else flaws.CLASS,
        )
        places = np.array([rows.get(value, -1) for value in self.column(key, known)], np.int64)
        self.good &= places >= 0
        return places

    def _reject(self, row: int, flaw: str, problem: str) -> None:
        self._say(row, flaw, problem)
        self.good[row] = False

    def _say(self, row: int, check: str, problem: str) -> None:
        number = self.entries[row].get("id")
        own = number if self.section == "annotations" and _is_id(number) else None
        self._report(Flaw(check, f"{self._name(row)}{problem}", self._file(row), own))

    def _file(self, row: int) -> str | None:
        """The name of the image that an entry is, or is of."""
        if self._images is not None:
            number = self.entries[row].get("image_id")
            return self._images.file_by_id.get(number) if _is_id(number) else None
        name = self.entries[row].get("file_name")
        return name if isinstance(name, str) and name else None

    @cached_property
    def file_by_id(self) -> dict[int, str | None]:
        names: dict[int, str | None] = {}
        for row, entry in enumerate(self.entries):
            if _is_id(number := entry.get("id")):
                names.setdefault(number, self._file(row))  # the first, whose objects they become
        return names

    def _name(self, row: int) -> str:
        """How messages call an entry: by id, or by position where it has none."""
        entry_id = self.entries[row].get("id")
        if not _is_id(entry_id):
            return f"{self.source}: {self.section}[{row}]"
        singular = {"images": "image", "annotations": "annotation", "categories": "category"}
        return f"{self.source}: {singular[self.section]} {entry_id}"


def _shown(value: Any) -> str:
    """A JSON value in a message, cut short: JSON text is one line."""
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:60]}..."
