"""Pascal VOC folders (http://host.robots.ox.ac.uk/pascal/VOC/): one XML file an image."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

import numpy as np

from ..errors import UserError
from . import flaws
from .dataset import DetectionDataset
from .flaws import Flaw
from .images import inside
from .table import Table
from .transforms import Transform

CORNERS = ("xmin", "ymin", "xmax", "ymax")
SUFFIXES = (".jpg", ".jpeg", ".png", ".JPG", ".JPEG", ".PNG")


class VocDataset(DetectionDataset):
    """A data set annotated in Pascal VOC's XML format. Items and errors: see `DetectionDataset`.

    Corners are taken as given, [xmin, ymin, xmax, ymax] in pixels, without the development kit's
    shift by one (its pixels count from 1, and xmax belongs to the box). `difficult` objects are
    crowd: not learned, and neither missed nor false in the evaluation.

    Args:
        root: The folder that holds JPEGImages, Annotations and ImageSets/Main.
        split: Name of a list of images: ImageSets/Main/<split>.txt.
        classes: Class names in the order of their labels. By default all names in Annotations,
            sorted, so that every split of a folder has the same labels.
        transform, skip_bad_images, skip_bad_boxes, cache: See `DetectionDataset`.

    Image ids (in the order of the list) and category ids (in that of the labels) count from 1.

    Raises:
        UserError: Also for a file that is not of this format.
    """

    def __init__(
        self,
        root: str | Path,
        split: str,
        *,
        classes: Sequence[str] | None = None,
        transform: Transform | None = None,
        skip_bad_images: bool = False,
        skip_bad_boxes: bool = False,
        cache: str | Path | None = None,
    ) -> None:
        super().__init__(
            read_voc(root, split, classes),
            Path(root, "JPEGImages"),
            transform=transform,
            skip_bad_images=skip_bad_images,
            skip_bad_boxes=skip_bad_boxes,
            cache=cache,
        )


def read_voc(
    root: str | Path,
    split: str,
    classes: Sequence[str] | None = None,
    report: flaws.Report = flaws.refuse,
) -> Table:
    """The images and objects of one split of a Pascal VOC folder; boxes are checked for form.

    Images and objects that are named to `report`, if that returns, are left out.
    """
    split_file = Path(root, "ImageSets", "Main", f"{split}.txt")
    image_of = partial(_file_name, Path(root, "JPEGImages"))
    lines = _read(split_file).decode(errors="replace").splitlines()
    stems = [line.strip() for line in lines if line.strip()]
    for stem, times in Counter(stems).items():
        if times > 1:
            message = f"{split_file} lists {stem!r} twice; expected every image once"
            report(Flaw(flaws.LISTED, message, image_of(stem)))

    folder = Path(root, "Annotations")
    files, sizes, image_rows, numbers, names, crowd, corners = [], [], [], [], [], [], []
    for stem in dict.fromkeys(stems):
        file = inside(folder, f"{stem}.xml")
        try:
            image = _parse(file)
            sizes.append([_size(image, key, file) for key in ("height", "width")])
        except UserError as error:
            report(Flaw(flaws.FILE, str(error), image_of(stem)))
            continue
        files.append(stem)
        for number, item in enumerate(image.iterfind("object"), start=1):
            try:
                name = _text(item, "name", file)
            except UserError as error:
                report(Flaw(flaws.ENTRY, str(error), image_of(stem), number))
                continue
            try:
                box = [_number(item, f"bndbox/{corner}", file) for corner in CORNERS]
            except UserError as error:
                report(Flaw(flaws.BOX, str(error), image_of(stem), number))
                continue
            image_rows.append(len(files) - 1)
            numbers.append(number)
            names.append(name)
            crowd.append(item.findtext("difficult", "0").strip() == "1")
            corners.append(box)

    if classes is None:
        listed = set(stems)  # what is wrong with those is said
        classes = sorted(_names_in(folder, lambda file: file.stem in listed, report))
    labels = {name: label for label, name in enumerate(classes)}
    known = np.array([name in labels for name in names], bool)
    for row in np.flatnonzero(~known):
        stem, number = files[image_rows[row]], numbers[row]
        message = (
            f"{folder / stem}.xml: object {number} is of the unknown class {names[row]!r}; "
            f"expected one of {', '.join(classes)}"
        )
        report(Flaw(flaws.CLASS, message, image_of(stem), number))

    ends = np.array(corners, np.float64).reshape(-1, 4)
    boxes = np.concatenate([ends[:, :2], ends[:, 2:] - ends[:, :2]], axis=1)
    table = Table(
        source=str(split_file),
        image_ids=np.arange(1, len(files) + 1),
        file_names=[image_of(stem) for stem in files],
        sizes=np.array(sizes, np.int64).reshape(-1, 2),
        category_ids=list(range(1, len(classes) + 1)),
        class_names=list(classes),
        image_rows=np.array(image_rows, np.int64),
        labels=np.array([labels.get(name, -1) for name in names], np.int64),
        boxes=boxes,
        areas=boxes[:, 2] * boxes[:, 3],
        crowd=np.array(crowd, bool),
        object_ids=np.array(numbers, np.int64),
    )
    return table if known.all() else table.keep(np.flatnonzero(known))


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise UserError(
            f"annotation file {str(file)!r} cannot be opened: {error.strerror}; expected a "
            "folder with Annotations, ImageSets/Main and JPEGImages"
        ) from None


def _parse(file: Path) -> Element:
    """The root element of an XML file without a document type.

    Entities are declared in a document type alone, so without one nothing can expand
    ("billion laughs") or reach another file.
    """

    def refuse(*_: object) -> None:
        raise UserError(f"{file} holds a document type (DOCTYPE); expected plain XML")

    builder, parser = TreeBuilder(), expat.ParserCreate()
    parser.StartDoctypeDeclHandler = refuse
    parser.StartElementHandler = builder.start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.data
    try:
        parser.Parse(_read(file), True)
    except expat.ExpatError as error:
        raise UserError(f"{file} is not XML ({error}); expected a Pascal VOC annotation") from None
    return builder.close()


def _names_in(folder: Path, said: Callable[[Path], bool], report: flaws.Report) -> set[str]:
    """Of the classes of all annotations, whatever split they are of; flaws of files that are `said`
    already are not said again."""
    names = set()
    for file in sorted(folder.glob("*.xml")):
        try:
            for item in _parse(file).iterfind("object"):
                names.add(_text(item, "name", file))
        except UserError as error:
            if not said(file):
                report(Flaw(flaws.FILE, str(error)))
    return names


def _text(element: Element, path: str, file: Path) -> str:
    text = element.findtext(path, "").strip()
    if not text:
        raise UserError(
            f"{file}: <{element.tag}> has no <{path}>; expected a Pascal VOC annotation"
        )
    return text


def _number(element: Element, path: str, file: Path) -> float:
    text = _text(element, path, file)
    try:
        return float(text)
    except ValueError:
        raise UserError(f"{file}: <{path}> is {text!r}; expected a number") from None


def _size(image: Element, key: str, file: Path) -> int:
    value = _number(image, f"size/{key}", file)
    if not (value.is_integer() and 0 < value < 2**31):
        raise UserError(f"{file}: <size/{key}> is {value:g}; expected an integer > 0")
    return int(value)


def _file_name(folder: Path, stem: str) -> str:
    """The image of an annotation, by its name: the XML's <filename> is often out of date."""
    names = [f"{stem}{suffix}" for suffix in SUFFIXES]
    return next((name for name in names if (folder / name).is_file()), names[0])
