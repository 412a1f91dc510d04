"""A folder of decoded images, shared by all worker processes, ranks and later runs.

One file an image, as in the data set itself: each is written aside and renamed, so that it is
there whole or not at all, and processes and machines that share the folder need no locks. Readers
read, and the system's page cache is what they share. (A mapped file would end a process that
touches it, should somebody cut it off meanwhile.)

A file holds the pixels, what its source was (size and time of change) and a checksum. It is made
anew if the source changed since, and if it is damaged, so that an image is the same, to the bit,
with and without a cache.
"""

from __future__ import annotations

import os
import struct
import time
import uuid
import warnings
import zlib
from collections.abc import Callable
from contextlib import suppress
from hashlib import blake2b
from pathlib import Path

import PIL
from PIL import Image

from ..errors import DataWarning, UserError

HEADER = struct.Struct("<4sIQqII")  # magic, checksum of the rest, source's size and time, shape
MAGIC = b"fdp1"
RESERVE = 2**30  # bytes: left free on the cache's disk, where checkpoints may be meant to go
STALE = 3600  # seconds: an unfinished file of that age is that of a process that was killed


class CacheWarning(DataWarning):
    """No more images are added to the cache."""


class PictureCache:
    """RGB images by source file and by what was done to them; 3 bytes a pixel.

    Raises `UserError` if the folder cannot be made. When its disk is full, or nearly so, it says so
    in one `CacheWarning` and goes on with the images that it has.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder: Path = Path(folder)
        self.stopped: str | None = None  # why no more are added
        self._unfinished = self.folder / "unfinished"
        try:
            self._unfinished.mkdir(parents=True, exist_ok=True)
            for file in self._unfinished.iterdir():
                with suppress(OSError):  # another process tidies up, too
                    if time.time() - file.stat().st_mtime > STALE:
                        file.unlink()
        except OSError as error:
            raise UserError(
                f"cache {str(folder)!r} cannot be made a folder ({error.strerror}); name another"
            ) from error

    def get(self, source: Path, variant: str, make: Callable[[], Image.Image]) -> Image.Image:
        """The image that `make` gives for the file `source`; `variant` names what that does."""
        try:
            found = os.stat(source)
        except OSError:
            return make()  # which has more to say about it
        identity = found.st_size, found.st_mtime_ns
        # Decoders differ a little from release to release.
        key = "\0".join([PIL.__version__, variant, str(source)])
        name = blake2b(key.encode("utf-8", "surrogateescape"), digest_size=16).hexdigest()
        file = self.folder / name[:2] / name[2:]  # no folder of a million files
        image = _read(file, identity)
        if image is None:
            image = make()
            if self.stopped is None:
                self._add(file, identity, image)
        return image

    def stop(self, reason: str) -> None:
        """No more images are added, because of `reason`. The first time a warning says so."""
        if self.stopped is None:
            self.stopped = reason
            warnings.warn(
                f"cache {str(self.folder)!r}: {reason}; no more images are added to it",
                CacheWarning,
                stacklevel=2,
            )

    def _add(self, file: Path, identity: tuple[int, int], image: Image.Image) -> None:
        unfinished = self._unfinished / uuid.uuid4().hex
        try:
            disk = os.statvfs(self.folder)
            if disk.f_bavail * disk.f_frsize < RESERVE:
                self.stop(f"less than {RESERVE >> 20} MB are left on its disk")
                return
            file.parent.mkdir(exist_ok=True)
            unfinished.write_bytes(_packed(identity, image))
            os.replace(unfinished, file)  # not synced: the checksum notices what a crash loses
        except OSError as error:
            with suppress(OSError):
                unfinished.unlink(missing_ok=True)
            self.stop(f"cannot be written to ({error.strerror})")


def _packed(identity: tuple[int, int], image: Image.Image) -> bytes:
    pixels = image.tobytes()
    unchecked = HEADER.pack(MAGIC, 0, *identity, *image.size)
    return HEADER.pack(MAGIC, _checksum(unchecked, pixels), *identity, *image.size) + pixels


def _read(file: Path, identity: tuple[int, int]) -> Image.Image | None:
    """The image in a file, unless that is missing, damaged or of another source."""
    try:
        content = memoryview(file.read_bytes())
        magic, checksum, *source, width, height = HEADER.unpack_from(content)
    except (OSError, struct.error):
        return None
    pixels = content[HEADER.size :]
    unchecked = HEADER.pack(MAGIC, 0, *source, width, height)
    if (
        magic != MAGIC
        or tuple(source) != identity
        or len(pixels) != 3 * width * height
        or checksum != _checksum(unchecked, pixels)
    ):
        return None
    return Image.frombytes("RGB", (width, height), pixels)


def _checksum(header: bytes, pixels: bytes | memoryview) -> int:
    return zlib.crc32(pixels, zlib.crc32(header))
