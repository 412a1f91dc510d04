"""The ground truth of an image, found in a table of annotations by the name of its file."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path, PurePath

import numpy as np
import torch

from ..data import Table
from ..data.table import corners_of, report_bad_boxes
from ..errors import UserError
from ..evaluate import match_categories
from ..models.transform import GroundTruth


class Truth:
    """Annotations by file name, with the labels of a checkpoint.

    Crowd objects are left out, as in training, and so are bad boxes, with a `SkippedBoxWarning`.
    Raises `UserError` for other classes than the checkpoint's.
    """

    def __init__(self, table: Table, class_names: list[str], weights: str | Path) -> None:
        ids = match_categories(class_names, table, weights)
        corners, problems = corners_of(table)
        if problems.any():
            report_bad_boxes(table, problems, skip=True)
        label_of = np.array([ids.index(category_id) for category_id in table.category_ids])
        self._table = table
        self._learned = (problems == 0) & ~table.crowd
        self._boxes = torch.from_numpy(corners)
        self._labels = torch.from_numpy(label_of[table.labels])
        self._rows: dict[str, list[int]] = defaultdict(list)  # by a file's last name
        for row, name in enumerate(table.file_names):
            self._rows[PurePath(name).name].append(row)

    def of(self, file: Path) -> tuple[GroundTruth, tuple[int, int]]:
        """The objects of an image, and the (height, width) that they were annotated in.

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
            number = "several images" if found else "no image"
            raise UserError(
                f"image {str(file)!r}: {self._table.source} has {number} of this name; expected "
                "the annotations of this image, or none at all"
            )
        table, row = self._table, found[0]
        objects = np.flatnonzero((table.image_rows == row) & self._learned)
        height, width = table.sizes[row].tolist()
        target: GroundTruth = {"boxes": self._boxes[objects], "labels": self._labels[objects]}
        return target, (height, width)
