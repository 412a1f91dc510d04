"""Classes: their names, and whether each has enough to be learned and scored from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import numpy as np

from .dataset import DataSet, Finding, Split
from .registry import ERROR, NOTE, WARNING, check, check_split

IMBALANCE = 20  # boxes of the most frequent class to one of the rarest
FEW = 20  # boxes to learn a class from


def counts(data: DataSet) -> dict[str, dict[str, int]]:
    """Learned objects by class and split."""
    found: dict[str, dict[str, int]] = {}
    for split in data.splits:
        labels = split.table.labels[split.learned]
        of_label = np.bincount(labels, minlength=len(split.table.class_names)).tolist()
        for name, count in zip(split.table.class_names, of_label, strict=True):
            of_class = found.setdefault(name, {other.name: 0 for other in data.splits})
            of_class[split.name] += count
    return found


@check(
    "class-unused",
    WARNING,
    "A class has no objects in any split.",
    "Take it out: the detector has outputs for it that learn nothing but to be silent.",
)
def _(data: DataSet) -> Iterator[Finding]:
    for name, by_split in counts(data).items():
        if not any(by_split.values()):
            yield Finding(repr(name))


@check(
    "class-missing-in-split",
    WARNING,
    "A class has objects in some splits and none in another.",
    "Split anew by class: what is not learned cannot be found, and what is not there not scored.",
)
def _(data: DataSet) -> Iterator[Finding]:
    there = [split for split in data.splits if len(split.learned)]
    for name, by_split in counts(data).items():
        others = ", ".join(f"{count} in {split}" for split, count in by_split.items() if count)
        for split in there:
            if others and name in split.table.class_names and not by_split[split.name]:
                yield Finding(f"{name!r}: none, {others}", split.name)


@check(
    "class-rare",
    NOTE,
    f"A class has fewer than {FEW} objects to learn from.",
    "Annotate more of it; its AP will depend on a handful of boxes.",
)
def _(data: DataSet) -> Iterator[Finding]:
    first = data.splits[0]
    for name, by_split in counts(data).items():
        if 0 < by_split[first.name] < FEW:
            yield Finding(f"{name!r}: {by_split[first.name]}", first.name)


@check(
    "class-imbalance",
    NOTE,
    f"The most frequent class has more than {IMBALANCE} times the objects of the rarest.",
    "Look at the AP of each class: the mean counts them alike.",
)
def _(data: DataSet) -> Iterator[Finding]:
    totals = {name: sum(by_split.values()) for name, by_split in counts(data).items()}
    present = {name: count for name, count in totals.items() if count}
    if present:
        most, least = max(present, key=present.__getitem__), min(present, key=present.__getitem__)
        if present[most] > IMBALANCE * present[least]:
            yield Finding(f"{most!r} {present[most]:,}, {least!r} {present[least]:,}")


@check_split(
    "class-name-twice",
    ERROR,
    "Two classes have the same name, but for case and spaces.",
    "Make them one, or name them apart: results are told by name.",
)
def _(split: Split) -> Iterator[Finding]:
    folded = Counter(" ".join(name.casefold().split()) for name in split.table.class_names)
    for name in folded:
        same = [n for n in split.table.class_names if " ".join(n.casefold().split()) == name]
        if len(same) > 1:
            yield Finding(", ".join(map(repr, same)), split.name)


@check(
    "class-name-spaces",
    WARNING,
    "The name of a class is empty, or has spaces at its ends or breaks within.",
    "Clean it: names are compared as they stand.",
)
def _(data: DataSet) -> Iterator[Finding]:
    for name in dict.fromkeys(name for split in data.splits for name in split.table.class_names):
        if name != name.strip() or not name.isprintable() or not name:
            yield Finding(repr(name))


@check(
    "classes-differ",
    ERROR,
    "Two splits have different lists of classes.",
    "Use one list: the labels of a class are its places in it.",
)
def _(data: DataSet) -> Iterator[Finding]:
    first, *others = data.splits
    for split in others:
        ours = dict(zip(first.table.category_ids, first.table.class_names, strict=True))
        theirs = dict(zip(split.table.category_ids, split.table.class_names, strict=True))
        if ours != theirs and len(split.table.image_ids) and len(first.table.image_ids):
            either = sorted(ours.items() ^ theirs.items())
            shown = ", ".join(f"{number} {name!r}" for number, name in either[:4])
            yield Finding(f"not in both {first.name} and {split.name}: {shown}", split.name)
