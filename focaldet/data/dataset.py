"""The data set that every reader fills: a table of images and boxes, checked once, read lazily."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from ..errors import DataWarning, UserError
from .cache import PictureCache
from .images import ImageError, inside, missing, read_image
from .table import Table, Texts, corners_of, report_bad_boxes
from .transforms import Resize, ToTensor, Transform, described, leading_resize, seeded_generator


class SkippedImageWarning(DataWarning):
    """A bad image file was skipped, as `skip_bad_images` allows."""


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
    Images without boxes are ordinary. Nothing is written but to the cache.

    Args:
        table: What a reader found.
        image_folder: Where the table's file names are.
        transform: See `focaldet.data.transforms`; None is the image as it is, as a tensor. Boxes
            that it leaves without area are dropped.
        skip_bad_images: A missing, unreadable or wrongly sized image file is named in a
            `SkippedImageWarning`, listed in `skipped`, and replaced by the next readable one.
        skip_bad_boxes: Boxes without area, off the image or not finite are named in a
            `SkippedBoxWarning` and left out everywhere.
        cache: A folder that keeps the decoded images, and resized where the transform begins with
            a `Resize`, for other epochs, processes and runs. See `focaldet.data.cache`.

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
        cache: str | Path | None = None,
    ) -> None:
        if not len(table.image_ids) or not len(table.boxes):
            kind = "boxes" if len(table.image_ids) else "images"
            raise UserError(f"{table.source} is empty: it holds no {kind}; expected some")
        corners, problems = corners_of(table)
        if problems.any():
            report_bad_boxes(table, problems, skip_bad_boxes)

        # Objects in the order of their images, so that the targets of an image are one slice.
        rows = np.argsort(table.image_rows, kind="stable")
        rows = rows[problems[rows] == 0]
        self._table = replace(table.keep(rows), file_names=Texts(table.file_names))
        rows = rows[~table.crowd[rows]]
        self._boxes = torch.from_numpy(corners[rows])
        self._labels = torch.from_numpy(table.labels[rows])
        images = np.arange(len(table.image_ids) + 1)
        self._splits = np.searchsorted(table.image_rows[rows], images)

        self.image_folder: Path = Path(image_folder)
        self.transform: Transform = transform or ToTensor()
        self.skip_bad_images = skip_bad_images
        self.skipped: dict[int, str] = {}  # index of a bad image -> what is wrong with it
        if not self.image_folder.is_dir():
            raise UserError(f"image folder {str(image_folder)!r} does not exist; name another")
        self.cache: PictureCache | None = None if cache is None else PictureCache(cache)
        rows_missing = missing(image_folder, table.file_names)
        if rows_missing and not skip_bad_images:
            raise ImageError(
                f"image {table.file_names[rows_missing[0]]!r} of {table.source} is not in "
                f"{str(image_folder)!r} ({len(rows_missing)} of {len(self)} are missing); "
                "--skip-bad-images (in Python skip_bad_images=True) leaves them out"
            )

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
        resize, random_part = leading_resize(self.transform)
        picture = self._picture(index, resize)
        height, width = self._table.sizes[index].tolist()
        rows = slice(self._splits[index], self._splits[index + 1])
        # Cloned: what the caller does to a target is not done to the data set.
        boxes = self._boxes[rows].clone()
        if resize:
            boxes = resize.boxes(boxes, (width, height), picture.size)
        image, boxes = random_part(picture, boxes, generator)
        labels = self._labels[rows].clone()
        left = (boxes[:, 2:] > boxes[:, :2]).all(1)
        if not left.all():  # a crop has lost some
            boxes, labels = boxes[left], labels[left]
        target: Target = {
            "boxes": boxes,
            "labels": labels,
            "image_id": int(self._table.image_ids[index]),
            "original_size": (height, width),
            "size": (image.shape[-2], image.shape[-1]),
        }
        return image, target

    def read(self, index: int) -> Image.Image:
        """The picture of item `index`, RGB, in the frame that its boxes are given in."""
        height, width = self._table.sizes[index].tolist()
        return read_image(self._path(index), (height, width))

    def _picture(self, index: int, resize: Resize | None) -> Image.Image:
        """What does not change from epoch to epoch, from the cache where it has it."""

        def make() -> Image.Image:
            return resize.picture(self.read(index)) if resize else self.read(index)

        if self.cache is None:
            return make()
        variant = self._table.sizes[index].tolist(), resize and described(resize)
        return self.cache.get(self._path(index), str(variant), make)

    def _path(self, index: int) -> Path:
        return inside(self.image_folder, self.file_name(index))

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
    def table(self) -> Table:
        """The annotations as columns, objects in the order of their images, without bad boxes."""
        return self._table

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
        return self._table.to_coco()
