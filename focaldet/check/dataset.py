"""A data set as the checks see it: its splits, read with all their flaws, and whom it is for."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ..data import flaws
from ..data.flaws import Flaw
from ..data.folder import Source
from ..data.images import inside
from ..data.table import Table, corners_of
from ..errors import UserError
from .detector import Detector
from .files import Inspection, inspect_all
from .pairs import Pairs, overlapping

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


class Finding(NamedTuple):
    """One thing that a check found. What it is about is named as far as it is about one thing."""

    text: str
    split: str | None = None
    file: str | None = None  # of an image, as the annotations name it
    annotation: int | None = None  # its id; in VOC the number of the object, in YOLO the line

    def __str__(self) -> str:
        number = f", annotation {self.annotation}" if self.annotation is not None else ""
        place = f"{self.file!r}{number}" if self.file is not None else None
        return ": ".join(part for part in (self.split, place, self.text) if part)


@dataclass(frozen=True, eq=False)
class Split:
    """One split: what could be read of it, what could not, and what several checks ask of it."""

    name: str
    source: Source
    table: Table
    flaws: dict[str, list[Flaw]]  # by check
    detector: Detector

    @classmethod
    def read(cls, name: str, source: Source, detector: Detector) -> Split:
        found: dict[str, list[Flaw]] = defaultdict(list)

        def report(flaw: Flaw) -> None:
            found[flaw.check].append(flaw)

        try:
            table = source.read(report)
        except UserError as error:  # nothing of it can be read
            report(Flaw(flaws.FILE, str(error)))
            table = _nothing(str(source.images))
        return cls(name, source, table, found, detector)

    @property
    def has_ids(self) -> bool:
        """Whether the ids of its images are its own (COCO's), and not counted by the reader."""
        return self.table.source.endswith(".json")

    # What checks look at, computed once: all rows are of the table's columns -------------------

    @cached_property
    def problems(self) -> Ints:
        """Of each object: what is wrong with its box, a key of `focaldet.data.table.PROBLEMS`."""
        return corners_of(self.table)[1]

    @cached_property
    def learned(self) -> Ints:
        """Rows of the objects with a sound box, but for crowds: what a model would learn."""
        return np.flatnonzero((self.problems == 0) & ~self.table.crowd)

    @cached_property
    def owners(self) -> Ints:
        """The image row of each learned object."""
        return self.table.image_rows[self.learned]

    @cached_property
    def counts(self) -> Ints:
        """Learned objects of each image."""
        return np.bincount(self.owners, minlength=len(self.table.image_ids))

    @cached_property
    def corners(self) -> Floats:
        """Of the learned objects, [x1, y1, x2, y2] in pixels of the file, cut at the image."""
        boxes = self.table.boxes[self.learned]
        limits = self.table.sizes[self.owners][:, [1, 0, 1, 0]]
        ends = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], 1)
        return ends.clip(0, limits)

    @cached_property
    def resized(self) -> Ints:
        """(height, width) of each image as the detector takes it, int64 [N, 2]."""
        sizes, rows = np.unique(self.table.sizes, axis=0, return_inverse=True)
        resized = [self.detector.resize.size(width, height)[::-1] for height, width in sizes]
        return np.array(resized, np.int64).reshape(-1, 2)[rows.reshape(-1)]

    @cached_property
    def resized_corners(self) -> Floats:
        """Of the learned objects, in pixels of the image as the detector takes it."""
        scales: Floats = (self.resized / self.table.sizes)[self.owners]
        return self.corners * scales[:, [1, 0, 1, 0]]

    @cached_property
    def best_iou(self) -> Floats:
        """Of each learned object with an anchor."""
        return self.detector.best_iou(self.resized_corners, self.resized[self.owners])

    @cached_property
    def pairs(self) -> Pairs:
        """Of learned objects of an image that overlap, as positions in `learned`."""
        return overlapping(self.corners, self.owners)

    # Findings ----------------------------------------------------------------------------------

    def images(self, rows: Iterable[int], text: Callable[[int], str]) -> Iterator[Finding]:
        for row in rows:
            yield Finding(text(row), self.name, self.table.file_names[row])

    def objects(self, rows: Iterable[int], text: Callable[[int], str]) -> Iterator[Finding]:
        table = self.table
        for row in rows:
            name, number = table.file_names[table.image_rows[row]], int(table.object_ids[row])
            yield Finding(text(row), self.name, name, number)

    def box(self, row: int) -> str:
        """The box of an object, as messages show it."""
        x, y, width, height = self.table.boxes[row].tolist()
        name = self.table.class_names[self.table.labels[row]]
        return f"{name} [{x:g}, {y:g}, {width:g}, {height:g}] (x, y, width, height)"


class File(NamedTuple):
    """An image file of a split, as it was found."""

    split: Split
    row: int  # of the image
    found: Inspection

    def finding(self, text: str) -> Finding:
        return Finding(text, self.split.name, self.split.table.file_names[self.row])


@dataclass(frozen=True, eq=False)
class DataSet:
    """Its splits. `workers`: threads that read images."""

    splits: list[Split]
    detector: Detector
    workers: int = 1

    @classmethod
    def read(cls, sources: Mapping[str, Source], detector: Detector, workers: int = 1) -> DataSet:
        splits = [Split.read(name, source, detector) for name, source in sources.items()]
        return cls(splits, detector, workers)

    @cached_property
    def files(self) -> list[File]:
        """All images that are named, decoded once: the slow part."""
        wanted = []
        for split in self.splits:
            for row, name in enumerate(split.table.file_names):
                try:
                    path = inside(split.source.images, name)
                except UserError:
                    continue  # a check of its own names it
                height, width = split.table.sizes[row].tolist()
                wanted.append((split, row, path, (height, width)))
        found = inspect_all({(path, size) for _, _, path, size in wanted}, self.workers)
        return [File(split, row, found[path, size]) for split, row, path, size in wanted]


def _nothing(source: str) -> Table:
    none = np.zeros(0, np.int64)
    boxes = np.zeros((0, 4))
    return Table(
        source, none, [], none.reshape(0, 2), [], [], none, none, boxes, boxes[:, 0], none > 0, none
    )
