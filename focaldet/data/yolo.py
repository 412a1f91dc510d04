"""YOLO folders (https://docs.ultralytics.com/datasets/detect): one text file an image."""

from __future__ import annotations

import warnings
from collections import Counter
from pathlib import Path

import numpy as np

from ..errors import UserError
from . import flaws
from .dataset import DetectionDataset, SkippedImageWarning
from .flaws import Flaw
from .images import ImageError, image_size, inside
from .table import Table
from .transforms import Transform
from .yolo_layout import class_names, images_of, label_file, layout, lines

ROUNDING = 0.01  # by which numbers may leave [0, 1]: exporters round
EXPECTED = "expected a class and a box, `class cx cy w h`, or a polygon, `class x1 y1 x2 y2 ...`"


class YoloDataset(DetectionDataset):
    """A data set annotated in YOLO's text format. Items and errors: see `DetectionDataset`.

    A line is a class, counted from 0, and a box: its centre, width and height as parts of the
    image's; or a polygon, of which the enclosing box is taken. An image without a file of labels
    has no boxes. Sizes come from the headers of the images, after their EXIF orientation, in which
    annotation tools show them. Category ids are the numbers of the classes; image ids count from 1
    in the order of the names or of the list; messages call an object by its line.

    Args:
        root: The folder, or its data.yaml. `focaldet.data.yolo_layout` says what may be in it.
        split: Such as "train" or "val".
        transform, skip_bad_images, skip_bad_boxes, cache: See `DetectionDataset`. An image without
            a readable size is skipped when the labels are read.

    Raises:
        UserError: Also for a file that is not of this format, naming the line.
    """

    def __init__(
        self,
        root: str | Path,
        split: str,
        *,
        transform: Transform | None = None,
        skip_bad_images: bool = False,
        skip_bad_boxes: bool = False,
        cache: str | Path | None = None,
    ) -> None:
        def report(flaw: Flaw) -> None:
            if not (skip_bad_images and flaw.check == flaws.NO_SIZE):
                flaws.refuse(flaw)
            warnings.warn(f"skipped: {flaw.message}", SkippedImageWarning, stacklevel=5)

        super().__init__(
            read_yolo(root, split, report),
            layout(root).folder,
            transform=transform,
            skip_bad_images=skip_bad_images,
            skip_bad_boxes=skip_bad_boxes,
            cache=cache,
        )


def read_yolo(root: str | Path, split: str, report: flaws.Report = flaws.refuse) -> Table:
    """The images and objects of one split of a YOLO folder; boxes are checked for form.

    Images and objects that are named to `report`, if that returns, are left out.
    """
    found = layout(root)
    classes = class_names(found)
    source, listed = images_of(found, split)
    for name, times in Counter(listed).items():
        if times > 1:
            message = f"{source} lists {name!r} twice; expected every image once"
            report(Flaw(flaws.LISTED, message, name))

    names, sizes, image_rows, numbers, labels, boxes = [], [], [], [], [], []
    for name in dict.fromkeys(listed):
        try:
            size = image_size(inside(found.folder, name))
        except ImageError as error:
            report(Flaw(flaws.NO_SIZE, str(error), name))
            continue
        names.append(name)
        sizes.append(size)
        file = inside(found.folder, str(label_file(name)))
        for number, line in _labels(file, name, report):
            try:
                label, box = _object(line, len(classes))
            except _Wrong as wrong:
                report(Flaw(wrong.check, f"{file}: line {number}: {wrong}", name, number))
                continue
            image_rows.append(len(names) - 1)
            numbers.append(number)
            labels.append(label)
            boxes.append(box)

    frames = np.array(sizes, np.int64).reshape(-1, 2)
    rows = np.array(image_rows, np.int64)
    relative = np.array(boxes, np.float64).reshape(-1, 4)
    pixels = relative * frames[rows][:, [1, 0, 1, 0]]
    return Table(
        source=source,
        image_ids=np.arange(1, len(names) + 1),
        file_names=names,
        sizes=frames,
        category_ids=list(range(len(classes))),
        class_names=classes,
        image_rows=rows,
        labels=np.array(labels, np.int64),
        boxes=pixels,
        areas=pixels[:, 2] * pixels[:, 3],
        crowd=np.zeros(len(rows), bool),
        object_ids=np.array(numbers, np.int64),
    )


class _Wrong(ValueError):
    def __init__(self, check: str, message: str) -> None:
        super().__init__(message)
        self.check = check


def _labels(file: Path, image: str, report: flaws.Report) -> list[tuple[int, str]]:
    """The lines that are not empty, with their numbers; none where there is no file."""
    if not file.exists():
        return []
    try:
        return [(n, line) for n, line in enumerate(lines(file, empty=True), start=1) if line]
    except UserError as error:
        report(Flaw(flaws.FILE, str(error), image))
        return []


def _object(line: str, classes: int) -> tuple[int, tuple[float, float, float, float]]:
    """The class and the box [x, y, w, h], in parts of the image, of a line."""
    words = line.split()
    try:
        number, *values = map(float, words)
    except ValueError:
        raise _Wrong(flaws.BOX, f"{line[:60]!r} is not all numbers; {EXPECTED}") from None
    if len(values) != 4 and (len(values) < 6 or len(values) % 2):
        raise _Wrong(flaws.BOX, f"has {len(words)} numbers; {EXPECTED}")
    if not (number.is_integer() and 0 <= number < classes):
        expected = f"expected a whole number from 0 to {classes - 1}"
        raise _Wrong(flaws.CLASS, f"class {words[0]}; {expected}, as there are {classes} names")
    for value, word in zip(values, words[1:], strict=True):
        if not -ROUNDING <= value <= 1 + ROUNDING:  # nor NaN
            parts = "expected parts of the image's width and height, from 0 to 1, not pixels"
            raise _Wrong(flaws.BOX, f"{word} is outside [0, 1]; {parts}")
    if len(values) == 4:
        x, y, width, height = values
        return int(number), (x - width / 2, y - height / 2, width, height)
    left, top = min(values[::2]), min(values[1::2])
    return int(number), (left, top, max(values[::2]) - left, max(values[1::2]) - top)
