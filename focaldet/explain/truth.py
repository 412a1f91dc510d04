"""The ground truth of an image, found in a table of annotations by the name of its file."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path, PurePath
from typing import NamedTuple

import numpy as np
import torch

from ..data import Table
from ..data.table import corners_of, report_bad_boxes
from ..errors import UserError
from ..evaluate import match_categories
from ..models.transform import GroundTruth


class Annotated(NamedTuple):
    target: GroundTruth  # what training learns
    crowd: GroundTruth  # what it leaves out, and evaluation ignores
    size: tuple[int, int]  # (height, width), of the image that the boxes are on


class Truth:
    """Annotations by file name, with the labels of a checkpoint.

    Bad boxes are left out, with a `SkippedBoxWarning`. Raises `UserError` for other classes than
    the checkpoint's.
    """

    def __init__(self, table: Table, class_names: list[str], weights: str | Path) -> None:
        ids = match_categories(class_names, table, weights)
        corners, problems = corners_of(table)
        if problems.any():
            report_bad_boxes(table, problems, skip=True)
        label_of = np.array([ids.index(category_id) for category_id in table.category_ids])
        self._table = table
        self._sound = problems == 0
        self._boxes = torch.from_numpy(corners)
        self._labels = torch.from_numpy(label_of[table.labels])
        self._rows: dict[str, list[int]] = defaultdict(list)  # by a file's last name
        for row, name in enumerate(table.file_names):
            self._rows[PurePath(name).name].append(row)

    def of(self, file: Path) -> Annotated:
        """The objects of an image.

        The image is the one whose name in the annotations, with its folders, the path ends with.
        Raises `UserError` where there is none, or more than one.
        """
        parts = Path(file).absolute().parts
        found = [
            row
            for row in self._rows.get(file.name, [])
            if parts[-len(PurePath(self._table.file_names[row]).parts) :]
            == PurePath(self._table.file_names[row]).parts
        ]
        if len(found) != 1:
            what = (
                "several images of this name; expected folders in the names that tell them apart"
                if found
                else "no image of this name; expected annotations of its split, or none at all"
            )
            raise UserError(f"image {str(file)!r}: {self._table.source} has {what}")
        table, row = self._table, found[0]
        height, width = table.sizes[row].tolist()
        own = (table.image_rows == row) & self._sound
        return Annotated(
            self._objects(own & ~table.crowd), self._objects(own & table.crowd), (height, width)
        )

    def _objects(self, which: np.ndarray) -> GroundTruth:
        rows = torch.from_numpy(which)
        return {"boxes": self._boxes[rows], "labels": self._labels[rows]}
