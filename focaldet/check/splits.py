"""Splits: there, with images and boxes, apart from each other, and not more than is scored."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations

import numpy as np

from ..data import flaws
from ..words import counted
from .dataset import DataSet, Finding, Split
from .registry import ERROR, NOTE, WARNING, check, check_split

SCORED = 100  # boxes of an image that COCO's evaluation takes
SHOWN = 3


@check(
    "split-missing",
    ERROR,
    "There is no split to train on, or none to validate with.",
    "Set some images aside: without them nobody knows what a model is worth.",
)
def _(data: DataSet) -> Iterator[Finding]:
    there = {split.name for split in data.splits}
    for name in ("train", "val"):
        if name not in there:
            yield Finding(f"no {name!r}; there is {' and '.join(sorted(there)) or 'none'}")


@check_split("split-without-images", ERROR, "A split has no images.", "Add some, or take it out.")
def _(split: Split) -> Iterator[Finding]:
    if not len(split.table.image_ids) and flaws.FILE not in split.flaws:
        yield Finding("no images", split.name)


@check_split(
    "split-without-boxes", ERROR, "A split has no boxes to learn or score.", "Annotate some."
)
def _(split: Split) -> Iterator[Finding]:
    if len(split.table.image_ids) and not len(split.learned):
        yield Finding(f"{counted(len(split.table.image_ids), 'image')}, no boxes", split.name)


@check_split(
    "image-without-boxes",
    NOTE,
    "An image has no boxes.",
    "Nothing, if it shows background; if annotations are missing, it teaches to find nothing.",
)
def _(split: Split) -> Iterator[Finding]:
    objects = np.bincount(split.table.image_rows, minlength=len(split.table.image_ids))
    if objects.any():  # else there is a check of its own
        yield from split.images(np.flatnonzero(objects == 0), lambda row: "no boxes")


@check_split(
    "image-over-scored",
    WARNING,
    f"An image has more than {SCORED} boxes, as many as COCO's evaluation takes of detections.",
    "Evaluate with a larger --max-detections, or a perfect detector would not have an AP of 1.",
)
def _(split: Split) -> Iterator[Finding]:
    yield from _over(split, SCORED)


@check(
    "image-over-detected",
    WARNING,
    "An image has more boxes than the detector gives detections.",
    "Raise detections_per_img of the model (in a recipe).",
)
def _(data: DataSet) -> Iterator[Finding]:
    for split in data.splits:
        yield from _over(split, data.detector.detections)


def _over(split: Split, limit: int) -> Iterator[Finding]:
    rows = np.flatnonzero(split.counts > limit)
    rows = rows[np.argsort(-split.counts[rows], kind="stable")]
    return split.images(rows, lambda row: f"{split.counts[row]} boxes, over {limit}")


@check(
    "image-in-two-splits",
    ERROR,
    "A file is listed in two splits.",
    "List it in one: scores on images that were learned mean nothing.",
)
def _(data: DataSet) -> Iterator[Finding]:
    for one, other in combinations(data.splits, 2):
        if one.source.images == other.source.images:
            names, text = set(one.table.file_names), f"in {one.name}, too"
            rows = [row for row, name in enumerate(other.table.file_names) if name in names]
            yield from (Finding(text, other.name, other.table.file_names[row]) for row in rows)


@check(
    "id-in-two-splits",
    NOTE,
    "Images of two splits have the same id.",
    "Nothing, unless the files are to be joined.",
)
def _(data: DataSet) -> Iterator[Finding]:
    for one, other in combinations(data.splits, 2):
        ids = np.intersect1d(one.table.image_ids, other.table.image_ids)
        if len(ids) and one.has_ids and other.has_ids:
            some = ", ".join(map(str, ids[:SHOWN].tolist())) + ", ..." * (len(ids) > SHOWN)
            yield Finding(f"{counted(len(ids), 'id')}: {some}", f"{one.name} and {other.name}")
