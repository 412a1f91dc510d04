"""Detections of many images as columns: what an evaluation collects, gathers and scores."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from numbers import Integral, Real
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from .errors import UserError
from .models import Detection

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Column = TypeVar("Column", Ints, Floats)

BOX = "four finite numbers [x, y, width, height]"
SCORE = "a finite number"


@dataclass(frozen=True, eq=False)
class Found:
    """n detections, in any order. Raises `ValueError` for columns of other dtypes or shapes."""

    image_ids: Ints  # int64 [n]
    category_ids: Ints  # int64 [n]
    boxes: Floats  # float64 [n, 4]: x, y, width, height in pixels
    scores: Floats  # float64 [n]

    def __post_init__(self) -> None:
        n = len(self.scores)
        for name, dtype, shape in (
            ("image_ids", "int64", (n,)),
            ("category_ids", "int64", (n,)),
            ("boxes", "float64", (n, 4)),
            ("scores", "float64", (n,)),
        ):
            column = getattr(self, name)
            if column.dtype != dtype or column.shape != shape:
                raise ValueError(
                    f"{name}: expected {dtype} of shape {shape}, got {column.dtype} of shape "
                    f"{column.shape}"
                )

    def __len__(self) -> int:
        return len(self.scores)

    @classmethod
    def on_image(
        cls, image_id: int, detection: Detection, category_ids: Sequence[int] | Ints
    ) -> Found:
        """What a model found on an image, on the CPU; `category_ids`: one for each of its labels.

        Widths and heights are differences in float64, where those of float32 corners are rounded
        least.
        """
        corners = detection["boxes"].double().numpy()
        labels = detection["labels"].numpy()
        return cls(
            np.full(len(labels), image_id, np.int64),
            np.asarray(category_ids, np.int64)[labels],
            np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1),
            detection["scores"].double().numpy(),
        )

    @classmethod
    def concatenate(cls, parts: Iterable[Found]) -> Found:
        """The detections of all parts, in their order; without parts, none."""
        none = cls(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros((0, 4)), np.zeros(0))
        parts = [none, *parts]
        return cls(
            np.concatenate([part.image_ids for part in parts]),
            np.concatenate([part.category_ids for part in parts]),
            np.concatenate([part.boxes for part in parts]),
            np.concatenate([part.scores for part in parts]),
        )

    @classmethod
    def from_records(cls, records: Sequence[Mapping[str, Any]], source: str) -> Found:
        """A list in COCO's results form. Raises `UserError` for what is none, naming a record that
        lacks a value or has one of another type; `source` is the name of the list."""
        if not isinstance(records, Sequence) or isinstance(records, str):
            raise UserError(
                f"{source}: expected a JSON list of objects with image_id, category_id, bbox "
                f"[x, y, width, height] and score; got {type(records).__name__}"
            )
        where = f"{source}: detection"
        return cls(
            ids(records, "image_id", where),
            ids(records, "category_id", where),
            _column(records, "bbox", where, _as_boxes, BOX),
            _column(records, "score", where, _as_floats, SCORE),
        )

    def check(self, image_ids: Ints, category_ids: Ints, source: str) -> None:
        """Raises `UserError` naming a detection that is of none of the images or categories, whose
        sorted ids are given, or whose box or score is not fit to score."""
        made_for = "of the ground truth; --data is the file that the detections were made for"
        images = _are_among(self.image_ids, image_ids)
        categories = _are_among(self.category_ids, category_ids)
        finite = np.isfinite(self.boxes).all(axis=1)
        sized = (self.boxes[:, 2:] >= 0).all(axis=1)
        scored = np.isfinite(self.scores)
        corners = "; expected [x, y, width, height], not corners"
        for name, column, good, problem in (
            ("image_id", self.image_ids, images, f" is not an image {made_for}"),
            ("category_id", self.category_ids, categories, f" is not a category {made_for}"),
            ("bbox", self.boxes, finite, f"; expected {BOX}"),
            ("bbox", self.boxes, sized, corners),
            ("score", self.scores, scored, f"; expected {SCORE}"),
        ):
            if not good.all():
                row = int(good.argmin())
                value = column[row].tolist()
                raise UserError(f"{source}: detection {row}: {name} {value}{problem}")


def ids(records: Sequence[Mapping[str, Any]], key: str, where: str) -> Ints:
    """The ids under a key. Raises `UserError` naming a record without one, as `where` and its
    number."""
    return _column(records, key, where, _as_ids, "an integer")


def _are_among(values: Ints, known: Ints) -> npt.NDArray[np.bool_]:
    """Which of the values are among the known ones, which are sorted and differ."""
    if not len(known):
        return np.zeros(len(values), bool)
    at = np.searchsorted(known, values).clip(max=len(known) - 1)
    return np.asarray(known[at] == values)


def _column(
    records: Sequence[Mapping[str, Any]],
    key: str,
    where: str,
    convert: Callable[[list[Any]], Column | None],
    expected: str,
) -> Column:
    """The values under a key. Whole lists at once: a check of each record in Python takes longer
    than the evaluation of them all."""
    try:
        values = [record[key] for record in records]
    except (KeyError, TypeError) as error:
        for number, record in enumerate(records):
            if not isinstance(record, Mapping):
                kind = type(record).__name__
                raise UserError(f"{where} {number}: expected an object, got {kind}") from error
            if key not in record:
                raise UserError(f"{where} {number}: has no {key}; expected {expected}") from error
        raise
    column = convert(values)
    if column is None:
        number = next(number for number, value in enumerate(values) if convert([value]) is None)
        raise UserError(f"{where} {number}: {key} {values[number]!r}; expected {expected}")
    return column


def _as_ids(values: list[Any]) -> Ints | None:
    """None where one is no integer, or too large."""
    if not _all_are(Integral, values):
        return None
    try:
        return np.array(values, np.int64)
    except OverflowError:
        return None


def _as_floats(values: list[Any]) -> Floats | None:
    """None where one is no number, or an integer too large for it."""
    if not _all_are(Real, values):
        return None
    try:
        return np.array(values, np.float64)
    except OverflowError:
        return None


def _as_boxes(values: list[Any]) -> Floats | None:
    """[n, 4]. None where one has not four numbers."""
    try:
        four = set(map(len, values)) <= {4}
        flat = list(chain.from_iterable(values))
    except TypeError:
        return None
    numbers = _as_floats(flat) if four else None
    return None if numbers is None else numbers.reshape(-1, 4)


def _all_are(kind: type, values: list[Any]) -> bool:
    return all(issubclass(found, kind) for found in set(map(type, values)))
