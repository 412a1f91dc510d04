"""Boxes, one by one: finite, inside, and of a size and shape that a detector can learn."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from ..data.table import PROBLEMS
from .dataset import Finding, Split
from .registry import ERROR, NOTE, WARNING, FindInSplit, check_split

TINY = 4  # pixels: half a stride of the finest feature map
LONG = 10  # ratio of the sides
WHOLE = 0.98  # of the image


def is_tiny(split: Split) -> npt.NDArray[np.bool_]:
    """Of the learned objects."""
    sides = split.resized_corners[:, 2:] - split.resized_corners[:, :2]
    return np.asarray(sides.prod(1) < TINY**2)


def is_long(split: Split) -> npt.NDArray[np.bool_]:
    """Of the learned objects."""
    sides = split.table.boxes[split.learned, 2:]
    return np.asarray(sides.max(1, initial=0) > LONG * sides.min(1, initial=np.inf))


def _bad(problem: int) -> FindInSplit:
    return lambda split: split.objects(np.flatnonzero(split.problems == problem), split.box)


for _problem, _id, _advice in (
    (1, "box-not-finite", "Correct it, or train with --skip-bad-boxes."),
    (2, "box-without-area", "Correct it, or train with --skip-bad-boxes."),
    (3, "box-outside-image", "Correct it, or train with --skip-bad-boxes."),
):
    check_split(_id, ERROR, f"A box {PROBLEMS[_problem]}.", _advice)(_bad(_problem))


@check_split(
    "box-over-edge",
    NOTE,
    "A box hangs over the edge of its image by more than a pixel, and is cut there.",
    "Nothing for objects that the edge cuts; many of them hint at wrong sizes.",
)
def _(split: Split) -> Iterator[Finding]:
    boxes = split.table.boxes[split.learned]
    shown = split.corners
    over = np.abs(shown[:, :2] - boxes[:, :2]).max(1, initial=0)
    over = np.maximum(over, (boxes[:, :2] + boxes[:, 2:] - shown[:, 2:]).max(1, initial=0))
    yield from split.objects(split.learned[over > 1], split.box)


@check_split(
    "box-whole-image",
    NOTE,
    "A box is the whole image.",
    "Look whether it is one object, and not the label of a picture.",
)
def _(split: Split) -> Iterator[Finding]:
    sides = (split.corners[:, 2:] - split.corners[:, :2]) / split.table.sizes[split.owners, ::-1]
    yield from split.objects(split.learned[(sides >= WHOLE).all(1)], split.box)


@check_split(
    "box-tiny",
    WARNING,
    f"An object is smaller than {TINY} x {TINY} pixels once its image has the detector's size.",
    "Take a larger --size, or crops; such objects are hardly learned.",
)
def _(split: Split) -> Iterator[Finding]:
    sides = split.resized_corners[:, 2:] - split.resized_corners[:, :2]
    rows = np.flatnonzero(is_tiny(split))
    shown = dict(zip(split.learned[rows].tolist(), sides[rows].tolist(), strict=True))
    yield from split.objects(
        shown, lambda row: f"{shown[row][0]:.1f} x {shown[row][1]:.1f}: {split.box(row)}"
    )


@check_split(
    "box-long",
    NOTE,
    f"One side of a box is more than {LONG} times the other.",
    "Look whether it is right; anchors of usual ratios do not meet it.",
)
def _(split: Split) -> Iterator[Finding]:
    yield from split.objects(split.learned[is_long(split)], split.box)


@check_split(
    "crowd",
    NOTE,
    "An object is marked as a crowd, or as difficult in VOC.",
    "Nothing: it is neither learned nor counted.",
)
def _(split: Split) -> Iterator[Finding]:
    yield from split.objects(np.flatnonzero(split.table.crowd), split.box)
