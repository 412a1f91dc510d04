"""Image files as they are: what is wrong with each, and what it looks like."""

from __future__ import annotations

import io
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from ..data.images import FORMATS, as_rgb, in_frame, orientation_of

THUMBNAIL = 16  # pixels, each side
Size = tuple[int, int]  # height, width


@dataclass(frozen=True, eq=False)
class Inspection:
    """What was found; as much of it as could be read."""

    path: Path
    flaw: tuple[str, str] | None = None  # check, what is wrong
    mode: str = ""  # Pillow's
    orientation: int = 1  # EXIF's
    digest: bytes = b""  # of the file
    thumbnail: npt.NDArray[np.float32] | None = None  # [THUMBNAIL ** 2], grey


def inspect_all(
    files: Iterable[tuple[Path, Size]], workers: int
) -> dict[tuple[Path, Size], Inspection]:
    """Of files with the sizes that their annotations are for. Pillow decodes and hashlib hashes
    without Python's lock, so threads share the work."""
    listed = list(files)
    with ThreadPoolExecutor(max(1, workers)) as pool:
        return dict(zip(listed, pool.map(lambda file: inspect(*file), listed), strict=True))


def inspect(path: Path, size: Size) -> Inspection:
    """Reads the whole of a file, by the rules of `focaldet.data.read_image`."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return Inspection(path, ("image-missing", "is not there"))
    except OSError as error:
        return Inspection(path, ("image-unreadable", f"cannot be read ({error.strerror})"))
    digest = blake2b(content, digest_size=16).digest()
    try:
        file = Image.open(io.BytesIO(content), formats=FORMATS)
        mode, orientation = file.mode, orientation_of(file)
    except Exception as error:  # Pillow's decoders raise a dozen types on a broken file
        flaw = "image-unreadable", f"is no image of a known format ({_reason(error)})"
        return Inspection(path, flaw, digest=digest)
    try:
        file.load()
        image = as_rgb(in_frame(file, size))
    except Exception as error:
        flaw = (
            "image-truncated",
            f"{file.width} x {file.height}, cannot be decoded ({_reason(error)})",
        )
        return Inspection(path, flaw, mode, orientation, digest)
    wrong = None
    if (image.height, image.width) != size:
        annotated = f"its annotations are for {size[1]} x {size[0]}"
        wrong = "image-size-differs", f"is {image.width} x {image.height}, {annotated}"
    grey = image.convert("L").resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX)
    thumbnail = np.asarray(grey, np.float32).reshape(-1)
    return Inspection(path, wrong, mode, orientation, digest, thumbnail)


def _reason(error: Exception) -> str:
    """Without the address of the object in memory, which Pillow names."""
    return " ".join(str(error).split(" <")[0].split()) or type(error).__name__
