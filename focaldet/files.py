"""Reading and writing of files that are not images."""

from __future__ import annotations

import json
import os
import re
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
def replacing(path: str | Path, keep: str | Path | None = None) -> Iterator[Path]:
    """A path beside `path`, with its suffix, for the file that replaces it: written by the caller,
    then synced and renamed; left out without a trace if the caller raises. The file that was there
    before goes on under the name `keep`, in the same folder, if one is given: at no moment is
    there neither of the two."""
    path = Path(path)
    temporary = _temporary(path)
    try:
        yield temporary
        _sync(temporary)
        if keep is not None and path.exists():
            _replace_and_keep(temporary, path, Path(keep))
        else:
            os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    if os.name == "posix":  # the rename itself is durable only once the folder is synced
        _sync(path.parent)


def _replace_and_keep(temporary: Path, path: Path, keep: Path) -> None:
    aside = _temporary(keep)
    aside.unlink(missing_ok=True)  # of a process that was killed here and had the same number
    try:
        os.link(path, aside)
    except OSError:  # a file system without hard links
        os.replace(path, keep)
        os.replace(temporary, path)
        return
    try:
        # In this order, for what is at `path` may be damaged, and `keep` then the only whole one.
        os.replace(temporary, path)
        os.replace(aside, keep)
    finally:
        aside.unlink(missing_ok=True)


def sweep(folder: str | Path) -> list[Path]:
    """Removes the temporary files that killed processes left in the folder; returns their paths.

    For whoever is about to write into the folder and has not begun: one that bears the number of
    this very process is of an earlier one, for in a container the numbers start anew each time.
    """
    left = []
    for path in Path(folder).iterdir():
        match = _TEMPORARY.fullmatch(path.name)
        if match and (int(match[1]) == os.getpid() or not _alive(int(match[1]))):
            path.unlink(missing_ok=True)
            left.append(path)
    return sorted(left)


_TEMPORARY = re.compile(r"\..+\.([0-9]+)\.tmp(?:\.[^.]*)?")


def _temporary(path: Path) -> Path:
    """Where this process writes what is to be `path`: hidden, and matched by `_TEMPORARY`."""
    return path.with_name(f".{path.stem}.{os.getpid()}.tmp{path.suffix}")


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # someone else's
        pass
    return True


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
