"""The data set that every reader fills: a table of images and boxes, checked once, read lazily."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from ..errors import UserError
from .images import ImageError, inside, read_image
from .transforms import ToTensor, Transform, seeded_generator

PROBLEMS = {1: "is not finite", 2: "has no area", 3: "lies outside the image"}  # of a box


class SkippedImageWarning(UserWarning):
    """A bad image file was skipped, as `skip_bad_images` allows."""


class SkippedBoxWarning(UserWarning):
    """Bad boxes were left out, as `skip_bad_boxes` allows."""


@dataclass
class Table:
    """Annotated images as columns: N images, M objects in any order, K classes.

    Labels are in [0, K), by ascending category id.
    """

    source: str  # the file or folder it was read from, for messages
    image_ids: list[int]  # [N], unique
    file_names: list[str]  # [N], relative to the image folder
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


class Target(TypedDict):
    """What an item holds beside its image: see `DetectionDataset`."""

    boxes: Tensor
    labels: Tensor
    image_id: int
    original_size: tuple[int, int]
    size: tuple[int, int]


class DetectionDataset(Dataset[tuple[Tensor, Target]]):
    """Images with boxes, as the detector takes them.

    ``dataset[i]`` is ``(image, target)``: image float32 [3, H, W], RGB in [0, 1], after the
    transform; target a dict of

    - boxes: float32 [n, 4], [x1, y1, x2, y2] in pixels of the transformed image;
    - labels: int64 [n] in [0, num_classes), by ascending category id;
    - image_id: int, as in the file;
    - original_size, size: (height, width) before and after the transform.

    Crowd objects are left out of the targets. A box that hangs over the image's edge is cut there.
    Images without boxes are ordinary. Nothing is ever written.

    Args:
        table: What a reader found.
        image_folder: Where the table's file names are.
        transform: See `focaldet.data.transforms`; None is the image as it is, as a tensor.
        skip_bad_images: A missing, unreadable or wrongly sized image file is named in a
            `SkippedImageWarning`, listed in `skipped`, and replaced by the next readable one.
        skip_bad_boxes: Boxes without area, off the image or not finite are named in a
            `SkippedBoxWarning` and left out everywhere.

    Raises:
        UserError: No images, no boxes, a bad box, a file name that leads out of the folder.
        ImageError: Now for a missing image file; when read, for one that is otherwise bad.
    """

    def __init__(
        self,
        table: Table,
        image_folder: str | Path,
        *,
        transform: Transform | None = None,
        skip_bad_images: bool = False,
        skip_bad_boxes: bool = False,
    ) -> None:
        if not table.image_ids or not len(table.boxes):
            kind = "boxes" if table.image_ids else "images"
            raise UserError(f"{table.source} is empty: it holds no {kind}; expected some")
        corners, problems = _corners(table)
        if problems.any():
            _report_bad_boxes(table, problems, skip_bad_boxes)

        # Objects in the order of their images, so that the targets of an image are one slice.
        rows = np.argsort(table.image_rows, kind="stable")
        rows = rows[problems[rows] == 0]
        self._table = table.keep(rows)
        rows = rows[~table.crowd[rows]]
        self._boxes = torch.from_numpy(corners[rows])
        self._labels = torch.from_numpy(table.labels[rows])
        images = np.arange(len(table.image_ids) + 1)
        self._splits = np.searchsorted(table.image_rows[rows], images).tolist()

        self.image_folder: Path = Path(image_folder)
        self.transform: Transform = transform or ToTensor()
        self.skip_bad_images = skip_bad_images
        self.skipped: dict[int, str] = {}  # index of a bad image -> what is wrong with it
        if not self.image_folder.is_dir():
            raise UserError(f"image folder {str(image_folder)!r} does not exist; name another")
        self._paths = [inside(image_folder, name) for name in table.file_names]
        if not skip_bad_images:
            self._check_files_exist()

    def __len__(self) -> int:
        return len(self._table.image_ids)

    def __getitem__(self, index: int) -> tuple[Tensor, Target]:
        if not -len(self) <= index < len(self):
            raise IndexError(f"image {index} of {len(self)}")
        return self.sample(index % len(self), seeded_generator(0, 0, index % len(self)))

    def sample(self, index: int, generator: torch.Generator) -> tuple[Tensor, Target]:
        """Item `index`, or with `skip_bad_images` the first readable one from there on, cyclic.

        A function of the files and the generator, hence the same in every worker.
        """
        for step in range(len(self)):
            candidate = (index + step) % len(self)
            if candidate in self.skipped:
                continue
            try:
                return self.load(candidate, generator)
            except ImageError as error:
                if not self.skip_bad_images:
                    raise
                self.note_skipped(candidate, str(error))
        raise UserError(
            f"none of the {len(self)} images of {self._table.source} can be read; is "
            f"{str(self.image_folder)!r} their folder?"
        )

    def load(self, index: int, generator: torch.Generator) -> tuple[Tensor, Target]:
        """Item `index` with the transform's random choices drawn from `generator`."""
        picture = self.read(index)
        rows = slice(self._splits[index], self._splits[index + 1])
        # Cloned: what the caller does to a target is not done to the data set.
        image, boxes = self.transform(picture, self._boxes[rows].clone(), generator)
        target: Target = {
            "boxes": boxes,
            "labels": self._labels[rows].clone(),
            "image_id": self._table.image_ids[index],
            "original_size": (picture.height, picture.width),
            "size": (image.shape[-2], image.shape[-1]),
        }
        return image, target

    def read(self, index: int) -> Image.Image:
        """The picture of item `index`, RGB, in the frame that its boxes are given in."""
        height, width = self._table.sizes[index].tolist()
        return read_image(self._paths[index], (height, width))

    def file_name(self, index: int) -> str:
        """The name of the image file of item `index`, in the image folder."""
        return self._table.file_names[index]

    def note_skipped(self, index: int, message: str) -> None:
        """Record a bad image and warn of it, the first time."""
        if index not in self.skipped:
            self.skipped[index] = message
            warnings.warn(f"skipped: {message}", SkippedImageWarning, stacklevel=2)

    def names_of(self, image_ids: Sequence[int]) -> list[str]:
        """The file names of images, for messages."""
        rows = {image_id: row for row, image_id in enumerate(self._table.image_ids)}
        return [self._table.file_names[rows[image_id]] for image_id in image_ids]

    @property
    def class_names(self) -> list[str]:
        """Name of each label."""
        return list(self._table.class_names)

    @property
    def category_ids(self) -> list[int]:
        """COCO category id of each label."""
        return list(self._table.category_ids)

    @property
    def num_classes(self) -> int:
        return len(self._table.category_ids)

    def to_coco(self) -> dict[str, Any]:
        """The annotations as a COCO dict, for pycocotools: with crowd, boxes as in the file.

        Annotation ids are 1, 2, ...: pycocotools counts a ground truth of id 0 as missed.
        """
        table = self._table
        annotations = zip(
            np.asarray(table.image_ids)[table.image_rows].tolist(),
            np.asarray(table.category_ids)[table.labels].tolist(),
            table.boxes.tolist(),
            table.areas.tolist(),
            table.crowd.astype(int).tolist(),
            strict=True,
        )
        keys = ("image_id", "category_id", "bbox", "area", "iscrowd")
        return {
            "info": {"description": table.source},
            "images": [
                {"id": image_id, "file_name": name, "height": height, "width": width}
                for image_id, name, (height, width) in zip(
                    table.image_ids, table.file_names, table.sizes.tolist(), strict=True
                )
            ],
            "annotations": [
                {"id": row, **dict(zip(keys, values, strict=True))}
                for row, values in enumerate(annotations, start=1)
            ],
            "categories": [
                {"id": category_id, "name": name}
                for category_id, name in zip(table.category_ids, table.class_names, strict=True)
            ],
        }

    def _check_files_exist(self) -> None:
        missing = [row for row, path in enumerate(self._paths) if not path.is_file()]
        if missing:
            raise ImageError(
                f"image {self._table.file_names[missing[0]]!r} of {self._table.source} is not in "
                f"{str(self.image_folder)!r} ({len(missing)} of {len(self)} are missing); "
                "--skip-bad-images (in Python skip_bad_images=True) leaves them out"
            )


def _corners(table: Table) -> tuple[np.ndarray, np.ndarray]:
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


def _report_bad_boxes(table: Table, problems: np.ndarray, skip: bool) -> None:
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
