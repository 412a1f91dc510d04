"""Reading and writing of files that are not images."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .errors import UserError


def read_json(path: str | Path) -> Any:
    """The contents of a JSON file, or a `UserError` that names the file."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise UserError(
            f"{path}: cannot be read ({error.strerror}); expected a JSON file"
        ) from error
    except ValueError as error:
        raise UserError(f"{path}: not a JSON file ({error}); expected JSON in UTF-8") from error


def read_lines(path: str | Path) -> list[str]:
    """The lines of a text file that are not empty, or a `UserError` that names the file."""
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        raise UserError(
            f"{path}: cannot be read ({error.strerror}); expected a text file"
        ) from error
    except ValueError as error:
        raise UserError(
            f"{path}: not a text file ({error}); expected UTF-8, a name a line"
        ) from error
    return [line.strip() for line in lines if line.strip()]


def new_folder(path: str | Path) -> Path:
    """The folder, made unless it is there and empty; `UserError` if there is anything in it."""
    path = Path(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
        empty = not any(path.iterdir())
    except OSError as error:
        raise UserError(
            f"{path}: cannot be made a folder ({error.strerror}); name another"
        ) from error
    if not empty:
        raise UserError(f"{path}: expected a new or an empty folder; name another")
    return path


def write_atomically(path: str | Path, data: bytes) -> None:
    """Replaces `path` by a file with these bytes, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_bytes(data)


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """A path beside `path`, with its suffix, for the file that replaces it: written by the caller,
    then synced and renamed; left out without a trace if the caller raises."""
    path = Path(path)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.tmp{path.suffix}")
    try:
        yield temporary
        _sync(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    if os.name == "posix":  # the rename itself is durable only once the folder is synced
        _sync(path.parent)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
