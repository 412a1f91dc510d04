"""Whether annotations can be read: what the readers of `focaldet.data` say of them."""

from __future__ import annotations

from collections.abc import Iterator

from ..data import flaws
from .dataset import Finding, Split
from .registry import ERROR, WARNING, FindInSplit, check_split


class _Said(Finding):
    """The text says by itself where it is."""

    __slots__ = ()

    def __str__(self) -> str:
        return f"{self.split}: {self.text}"


def _said(flaw: str) -> FindInSplit:
    def find(split: Split) -> Iterator[Finding]:
        for found in split.flaws.get(flaw, ()):
            yield _Said(found.message, split.name, found.file, found.annotation)

    return find


for _flaw, _severity, _means, _advice in (
    (
        flaws.FILE,
        ERROR,
        "A file of annotations cannot be read.",
        "Mend it, or make it anew; training would end at it.",
    ),
    (
        flaws.ENTRY,
        ERROR,
        "An entry lacks a value, or has one of another type.",
        "Give it what the line expects.",
    ),
    (
        flaws.BOX,
        ERROR,
        "A box is not of the format's form.",
        "Write four numbers: [x, y, width, height] in COCO, corners in VOC, and in YOLO parts of "
        "the image from 0 to 1.",
    ),
    (
        flaws.ID,
        ERROR,
        "Two entries have the same id.",
        "Number them anew: what refers to the id means both.",
    ),
    (
        flaws.IMAGE,
        ERROR,
        "An annotation is of an image that is not listed.",
        "List the image, or take the annotation out.",
    ),
    (
        flaws.CLASS,
        ERROR,
        "An annotation is of a class that is not listed.",
        "List the class, or correct the annotation.",
    ),
    (
        flaws.LISTED,
        ERROR,
        "A list of images names one twice.",
        "Name it once.",
    ),
    (
        flaws.NO_SIZE,
        ERROR,
        "The size of an image is not known, for its file is missing or broken (YOLO).",
        "Bring the file back, or take it off the list.",
    ),
):
    check_split(_flaw, _severity, _means, _advice)(_said(_flaw))


@check_split(
    "area-over-box",
    WARNING,
    "The area of an object is larger than that of its box, or 0.",
    "Compute it anew: it decides whether the object counts as small, medium or large.",
)
def _(split: Split) -> Iterator[Finding]:
    table, rows = split.table, split.learned
    areas, boxes = table.areas[rows], table.boxes[rows]
    limit = boxes[:, 2] * boxes[:, 3] * 1.01 + 1  # rounding of the box to whole pixels
    wrong = rows[(areas > limit) | (areas <= 0)]
    yield from split.objects(wrong, lambda row: f"area {table.areas[row]:g}, {split.box(row)}")
