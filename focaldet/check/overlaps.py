"""Boxes in pairs: one object annotated twice, or once for each of two classes."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from .dataset import Finding, Split
from .registry import NOTE, WARNING, check_split

SAME = 0.999  # IoU: the same box but for rounding
HIGH = 0.8  # IoU
NESTED = 0.95  # of the smaller box, covered by the larger


def _pairs(split: Split, which: npt.NDArray[np.bool_]) -> Iterator[Finding]:
    """The pairs as findings at the one that stands later in the file."""
    pairs, table = split.pairs, split.table
    one, other = split.learned[pairs.first[which]], split.learned[pairs.second[which]]
    earlier = dict(zip(np.maximum(one, other), np.minimum(one, other), strict=True))
    iou = dict(zip(np.maximum(one, other), pairs.iou[which], strict=True))
    yield from split.objects(
        sorted(earlier),
        lambda row: (
            f"IoU {iou[row]:.2f} with annotation {table.object_ids[earlier[row]]}: "
            f"{split.box(row)}, {split.box(earlier[row])}"
        ),
    )


def _of_a_class(split: Split) -> npt.NDArray[np.bool_]:
    labels = split.table.labels[split.learned]
    return np.asarray(labels[split.pairs.first] == labels[split.pairs.second])


@check_split(
    "box-twice",
    WARNING,
    "An image has the same box of the same class twice.",
    "Take one out: the detector is counted as missing the other.",
)
def _(split: Split) -> Iterator[Finding]:
    yield from _pairs(split, _of_a_class(split) & (split.pairs.iou > SAME))


@check_split(
    "box-two-classes",
    WARNING,
    "The same box is of two classes.",
    "Decide on one, unless an object may be both.",
)
def _(split: Split) -> Iterator[Finding]:
    yield from _pairs(split, ~_of_a_class(split) & (split.pairs.iou > SAME))


@check_split(
    "box-overlap",
    WARNING,
    f"Two boxes of a class overlap with an IoU above {HIGH:g}.",
    "Look whether they are one object; if not, a detector's NMS will keep one of them.",
)
def _(split: Split) -> Iterator[Finding]:
    iou = split.pairs.iou
    yield from _pairs(split, _of_a_class(split) & (iou > HIGH) & (iou <= SAME))


@check_split(
    "box-nested",
    NOTE,
    f"A box has another of its class within it, {NESTED:.0%} or more of that.",
    "Look whether one is a part of the other, or a group beside its members.",
)
def _(split: Split) -> Iterator[Finding]:
    nested = (split.pairs.covered >= NESTED) & (split.pairs.iou <= HIGH)
    yield from _pairs(split, _of_a_class(split) & nested)
