"""Image files: there, whole, of the announced size, and not twice."""

from __future__ import annotations

import os
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator
from pathlib import Path
from typing import TypeVar

import numpy as np

from ..data import flaws
from ..data.images import inside
from ..data.yolo_layout import SUFFIXES
from ..errors import UserError
from .dataset import DataSet, File, Finding, Split
from .lookalikes import alike
from .registry import ERROR, NOTE, WARNING, Find, check, check_split

T = TypeVar("T")


def _flawed(flaw: str) -> Find:
    def find(data: DataSet) -> Iterator[Finding]:
        for file in data.files:
            if file.found.flaw and file.found.flaw[0] == flaw:
                yield file.finding(file.found.flaw[1])

    return find


for _flaw, _means, _advice in (
    (
        "image-missing",
        "An image is not in the folder.",
        "Bring it back, or train with --skip-bad-images.",
    ),
    (
        "image-unreadable",
        "A file is no image, or may not be read.",
        "Replace it, or train with --skip-bad-images.",
    ),
    (
        "image-truncated",
        "An image is cut off or damaged behind its header.",
        "Copy it anew, or train with --skip-bad-images.",
    ),
    (
        "image-size-differs",
        "An image has another size than its annotations say.",
        "Find out which is right: the boxes are for the size that they name.",
    ),
):
    check(_flaw, ERROR, _means, _advice, reads_images=True)(_flawed(_flaw))


@check_split(
    "name-leads-out",
    ERROR,
    "The name of an image leads out of its folder.",
    "Name it relative to the folder of the images.",
)
def _(split: Split) -> Iterator[Finding]:
    for name in split.table.file_names:
        if ".." in name or os.path.isabs(name) or "\0" in name:
            try:
                inside(split.source.images, name)
            except UserError:
                yield Finding("is not below the folder", split.name, name)


@check(
    "image-exif-orientation",
    NOTE,
    "An image is stored turned or mirrored, and says so in EXIF.",
    "See with `focaldet data show` whether its boxes fit; where the size does not tell, the "
    "stored pixels are taken.",
    reads_images=True,
)
def _(data: DataSet) -> Iterator[Finding]:
    for file in data.files:
        if file.found.orientation != 1:
            yield file.finding(f"orientation {file.found.orientation}")


@check(
    "image-mode",
    NOTE,
    "An image is not RGB with 8 bits a channel, and is converted.",
    "Nothing, unless the alpha channel or more than 8 bits hold what matters.",
    reads_images=True,
)
def _(data: DataSet) -> Iterator[Finding]:
    for file in data.files:
        if file.found.mode not in ("RGB", ""):
            yield file.finding(f"mode {file.found.mode}")


@check(
    "image-unreferenced",
    NOTE,
    "An image in the folder is in no split.",
    "Nothing, if that is meant.",
    reads_images=True,
)
def _(data: DataSet) -> Iterator[Finding]:
    if any(flaws.FILE in split.flaws for split in data.splits):
        return  # who knows what it would have named
    used = {file.found.path for file in data.files}
    for folder in {split.source.images.resolve(): None for split in data.splits}:
        for path in sorted(folder.rglob("*")):
            if path.suffix.lower() in SUFFIXES and path not in used and path.is_file():
                yield Finding(str(path.relative_to(folder)))


@check(
    "image-twice",
    WARNING,
    "Two images of a split are the same file, byte for byte.",
    "Leave one out: both are learned, and counted in the evaluation.",
    reads_images=True,
)
def _(data: DataSet) -> Iterator[Finding]:
    for first, other in _same(_sound(data.files), lambda f: (f.split.name, f.found.digest)):
        yield other.finding(f"the same as {_name(first)!r}")


@check(
    "image-leak",
    ERROR,
    "The same image is in two splits.",
    "Leave it out of one: scores on images that were learned mean nothing.",
    reads_images=True,
)
def _(data: DataSet) -> Iterator[Finding]:
    for first, other in _same(_sound(data.files), lambda file: file.found.digest):
        if first.split is not other.split and _listed(first) != _listed(other):
            yield other.finding(f"the same as {_name(first)!r} of {first.split.name}")


@check(
    "image-near-duplicate",
    NOTE,
    "An image looks like another, as the same picture saved anew or the next one of a film.",
    "Keep both in one split.",
    reads_images=True,
)
def _(data: DataSet) -> Iterator[Finding]:
    files = list({f.found.digest: f for f in data.files if f.found.thumbnail is not None}.values())
    if not files:
        return
    thumbnails = np.stack([f.found.thumbnail for f in files if f.found.thumbnail is not None])
    for i, j, correlation in alike(thumbnails, [f.split.name for f in files]):
        first, other = files[i], files[j]
        place = "" if first.split is other.split else f" of {first.split.name}"
        yield other.finding(f"like {_name(first)!r}{place} (correlation {correlation:.3f})")


@check_split(
    "image-name-twice",
    ERROR,
    "Two images of a split have the same file.",
    "Make them one: the boxes of each are missing on the other.",
)
def _(split: Split) -> Iterator[Finding]:
    names = split.table.file_names
    for first, other in _same(range(len(names)), names.__getitem__):
        ids = split.table.image_ids[[first, other]].tolist()
        yield Finding(f"images {ids[0]} and {ids[1]}", split.name, names[other])


@check(
    "image-name-case",
    WARNING,
    "Names of images differ by upper and lower case, or by how accents are coded, alone.",
    "Rename one: other systems take them for the same file.",
)
def _(data: DataSet) -> Iterator[Finding]:
    names: dict[Path, dict[str, None]] = defaultdict(dict)
    for split in data.splits:
        names[split.source.images].update(dict.fromkeys(split.table.file_names))
    for listed in names.values():
        for first, other in _same(listed, lambda n: unicodedata.normalize("NFC", n).casefold()):
            yield Finding(f"{other!r} and {first!r}")


def _sound(files: Iterable[File]) -> list[File]:
    """Those with a file; each path of a split once, for other checks name those that are twice."""
    return list({(f.split.name, f.found.path): f for f in files if f.found.digest}.values())


def _name(file: File) -> str:
    return file.split.table.file_names[file.row]


def _listed(file: File) -> tuple[Path, str]:
    """As `image-in-two-splits` compares images."""
    return file.split.source.images, _name(file)


def _same(things: Iterable[T], key: Callable[[T], Hashable]) -> Iterator[tuple[T, T]]:
    """Each that has the key of an earlier one, behind the first that has it."""
    first: dict[Hashable, T] = {}
    for thing in things:
        known = first.setdefault(key(thing), thing)
        if known is not thing:
            yield known, thing
