"""Reading one image file: any of the usual formats and pixel modes becomes an RGB Pillow image."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePath

import numpy as np
from PIL import ExifTags, Image, ImageOps

from ..errors import UserError

# Raster formats only: Pillow's others include EPS, which it renders by running Ghostscript.
# (An MPO, as phones write it, opens as JPEG.)
FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "PPM", "JPEG2000")


class ImageError(UserError):
    """An image file that cannot be used: missing, unreadable, or not of the announced size."""


def read_image(path: str | Path, size: tuple[int, int] | None = None) -> Image.Image:
    """Read an image file as RGB, 8 bits a channel.

    Grayscale is repeated over the channels, alpha is dropped, a palette looked up, CMYK converted,
    and 16 bits scaled to 8 by their full range (Pillow's own conversion clips them at 255).

    Args:
        path: The file: JPEG, PNG, WebP, TIFF, BMP, GIF (first frame), PPM or JPEG 2000.
        size: The (height, width) that the annotations were made for. Annotation tools differ in
            whether they apply a photo's EXIF orientation, and this size tells which was done: the
            orientation is applied where that, and only that, gives this size; where the stored
            pixels have it already they stay as stored, as pycocotools and torchvision take them.
            Without a size the orientation is applied, as a viewer would.

    Raises:
        ImageError: The file is missing, unreadable, or has another size.
    """
    with _opened(path) as file:
        file.load()
        image = as_rgb(in_frame(file, size))
    if size is not None and _size(image) != size:
        raise ImageError(
            f"image {str(path)!r} is {image.width} x {image.height} pixels, but its annotations "
            f"are for {size[1]} x {size[0]} (width x height); expected a file of that size"
        )
    return image


@contextmanager
def _opened(path: str | Path) -> Iterator[Image.Image]:
    """An image file; what goes wrong with it until it is closed is an `ImageError`."""
    try:
        with Image.open(path, formats=FORMATS) as file:
            yield file
    except FileNotFoundError:
        raise ImageError(f"image {str(path)!r} does not exist; expected an image file") from None
    except Exception as error:  # Pillow's decoders raise a dozen types on a broken file
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ImageError(
            f"image {str(path)!r} cannot be read ({reason}); expected an intact file of one of "
            f"{', '.join(FORMATS)}"
        ) from error


def image_size(path: str | Path) -> tuple[int, int]:
    """The (height, width) of an image file as a viewer shows it, from its header: nothing is
    decoded. `ImageError` where `read_image` has one for the header."""
    with _opened(path) as file:
        return (file.width, file.height) if orientation_of(file) >= 5 else _size(file)


def inside(folder: str | Path, name: str) -> Path:
    """The real path of file `name` in `folder`; a name that leads out of it is refused.

    Raises:
        UserError: `name` is absolute, holds "..", or passes through a link that ends outside.
    """
    root, relative = os.path.realpath(folder), PurePath(name)
    climbs = relative.is_absolute() or ".." in relative.parts or "\0" in name
    path = root if climbs else os.path.realpath(os.path.join(root, name))
    if climbs or not Path(path).is_relative_to(root):
        raise UserError(
            f"file name {name!r} leads out of the folder {str(folder)!r}; expected a path inside it"
        )
    return Path(path)


def missing(folder: str | Path, names: Iterable[str]) -> list[int]:
    """The rows of those names that are no file in `folder`; a name that leads out of it is refused,
    as by `inside`. One look at a file, and at each folder once: for lists of a million names."""
    root, folders, rows = os.path.realpath(folder), set[str](), []
    for row, name in enumerate(names):
        parent = os.path.dirname(name)
        if parent not in folders or ".." in name or "\0" in name:
            inside(folder, name)
            folders.add(parent)
        mode = _mode(os.path.join(root, name))
        if stat.S_ISLNK(mode):
            mode = _mode(inside(folder, name))
        if not stat.S_ISREG(mode):
            rows.append(row)
    return rows


def _mode(path: str | Path) -> int:
    try:
        return os.lstat(path).st_mode
    except (OSError, ValueError):  # ValueError: a name that no file can have
        return 0


def _size(image: Image.Image) -> tuple[int, int]:
    return image.height, image.width


def orientation_of(image: Image.Image) -> int:
    """EXIF's: 1 is upright, 5 to 8 lie on their side."""
    return int(image.getexif().get(ExifTags.Base.Orientation, 1))


def in_frame(image: Image.Image, size: tuple[int, int] | None) -> Image.Image:
    """The image turned upright, unless the stored pixels have the (height, width) `size`."""
    if size == _size(image) or orientation_of(image) == 1:
        return image
    return ImageOps.exif_transpose(image)


def as_rgb(image: Image.Image) -> Image.Image:
    """8 bits a channel: see `read_image`. `ValueError` for floating-point pixels."""
    if image.mode.startswith("I"):  # "I;16" and its byte orders; "I": 16 bits read as 32
        image = Image.fromarray((np.asarray(image).clip(0, 65535) // 257).astype(np.uint8))
    elif image.mode == "F":
        raise ValueError("floating-point pixels have no known range")
    elif "transparency" in image.info:
        image = image.convert("RGBA")  # else Pillow warns about palettes with transparency
    return image.convert("RGB")
