"""Annotated images as columns, and what can be said of all of them at once."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Any, overload

import numpy as np

from ..errors import DataWarning, UserError

PROBLEMS = {1: "is not finite", 2: "has no area", 3: "lies outside the image"}  # of a box


class SkippedBoxWarning(DataWarning):
    """Bad boxes were left out, as `skip_bad_boxes` allows."""


class Texts(Sequence[str]):
    """A list of texts in two arrays.

    Worker processes share the pages of what they are forked with until somebody writes there.
    Python does when it but looks at an object, for the object counts its users; so a list of a
    million names would in time be copied into every worker. An array's content is only read.
    """

    def __init__(self, texts: Iterable[str]) -> None:
        # surrogatepass: JSON may hold half a character.
        encoded = [text.encode("utf-8", "surrogatepass") for text in texts]
        self._bytes = np.frombuffer(b"".join(encoded), np.uint8)
        self._ends = np.cumsum([0, *map(len, encoded)])

    def __len__(self) -> int:
        return len(self._ends) - 1

    @overload
    def __getitem__(self, index: int) -> str: ...

    @overload
    def __getitem__(self, index: slice) -> list[str]: ...

    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self[row] for row in range(*index.indices(len(self)))]
        row = range(len(self))[index]  # from the end, too, and an IndexError beyond it
        content = self._bytes[self._ends[row] : self._ends[row + 1]].tobytes()
        return content.decode("utf-8", "surrogatepass")


@dataclass
class Table:
    """Annotated images as columns: N images, M objects in any order, K classes.

    Labels are in [0, K), by ascending category id.
    """

    source: str  # the file or folder it was read from, for messages
    image_ids: np.ndarray  # int64 [N], unique
    file_names: Sequence[str]  # [N], relative to the image folder
    sizes: np.ndarray  # int64 [N, 2], (height, width) of the frame that the boxes are in
    category_ids: list[int]  # [K], ascending
    class_names: list[str]  # [K]
    image_rows: np.ndarray  # int64 [M], the image of each object, as a row of this table
    labels: np.ndarray  # int64 [M]
    boxes: np.ndarray  # float64 [M, 4], COCO's [x, y, width, height] in pixels, as in the file
    areas: np.ndarray  # float64 [M], square pixels: of the mask where the file has one
    crowd: np.ndarray  # bool [M], ignored: not learned, not counted as missed or as false
    object_ids: np.ndarray  # int64 [M], as messages name an object beside its image

    def keep(self, rows: np.ndarray) -> Table:
        """The same images with the objects of `rows`, in that order."""
        columns = ("image_rows", "labels", "boxes", "areas", "crowd", "object_ids")
        return replace(self, **{name: getattr(self, name)[rows] for name in columns})

    def digest(self) -> str:
        """SHA-256 of all that a model learns from: equal for the same images and objects, wherever
        they are read from."""
        names = "\0".join([*self.file_names, *self.class_names])
        digest = sha256(names.encode("utf-8", "surrogatepass"))
        objects = (self.image_rows, self.labels, self.boxes, self.crowd)
        for column in (self.image_ids, self.sizes, *objects):
            digest.update(np.ascontiguousarray(column).data)
        return digest.hexdigest()

    def to_coco(self) -> dict[str, Any]:
        """As a COCO dict: see `DetectionDataset.to_coco`."""
        with collector_paused():
            columns = (
                self.image_ids[self.image_rows],
                np.asarray(self.category_ids)[self.labels],
                self.boxes,
                self.areas,
                self.crowd.astype(int),
            )
            return {
                "info": {"description": self.source},
                "images": [
                    {"id": image_id, "file_name": name, "height": height, "width": width}
                    for image_id, name, (height, width) in zip(
                        self.image_ids.tolist(), self.file_names, self.sizes.tolist(), strict=True
                    )
                ],
                "annotations": [
                    {
                        "id": row,
                        "image_id": image_id,
                        "category_id": category_id,
                        "bbox": box,
                        "area": area,
                        "iscrowd": crowd,
                    }
                    for row, (image_id, category_id, box, area, crowd) in enumerate(
                        zip(*(column.tolist() for column in columns), strict=True), start=1
                    )
                ],
                "categories": [
                    {"id": category_id, "name": name}
                    for category_id, name in zip(self.category_ids, self.class_names, strict=True)
                ],
            }


@contextmanager
def collector_paused() -> Iterator[None]:
    """While many objects are made that stay: the collector would go through all of them again and
    again, in vain."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def corners_of(table: Table) -> tuple[np.ndarray, np.ndarray]:
    """Boxes as targets, float32 [M, 4] corners cut at the image; [M] keys of PROBLEMS, 0: none."""
    xy, wh = table.boxes[:, :2], table.boxes[:, 2:]
    with np.errstate(over="ignore", invalid="ignore"):
        corners = np.concatenate([xy, xy + wh], axis=1).astype(np.float32)
        limits = table.sizes[table.image_rows][:, [1, 0, 1, 0]].astype(np.float32)
        cut = np.clip(corners, 0, limits)
        problems = np.select(
            [
                ~np.isfinite(corners).all(1),
                (corners[:, 2:] <= corners[:, :2]).any(1),
                (cut[:, 2:] <= cut[:, :2]).any(1),
            ],
            list(PROBLEMS),
        )
    return cut, problems


def report_bad_boxes(table: Table, problems: np.ndarray, skip: bool) -> None:
    bad = np.flatnonzero(problems)

    def name(row: int) -> str:
        file_name = table.file_names[table.image_rows[row]]
        return f"annotation {table.object_ids[row]} of image {file_name!r}"

    x, y, w, h = table.boxes[bad[0]]
    height, width = table.sizes[table.image_rows[bad[0]]]
    first = (
        f"{name(bad[0])} ({width} x {height}): box [{x:g}, {y:g}, {w:g}, {h:g}] "
        f"(x, y, width, height) {PROBLEMS[problems[bad[0]]]}"
    )
    if not skip:
        others = f" ({len(bad)} boxes are bad)" if len(bad) > 1 else ""
        raise UserError(
            f"{table.source}: {first}; expected width and height > 0 and a part inside the "
            f"image{others}; --skip-bad-boxes (in Python skip_bad_boxes=True) leaves them out"
        )
    others = "".join(f"; {name(row)}" for row in bad[1:5]) + ("; ..." if len(bad) > 5 else "")
    warnings.warn(
        f"{table.source}: left out {len(bad)} bad box{'es' * (len(bad) > 1)}: {first}{others}",
        SkippedBoxWarning,
        stacklevel=4,
    )
