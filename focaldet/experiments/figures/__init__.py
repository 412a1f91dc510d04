"""The paper's figures, drawn with matplotlib, which is optional: `focaldet[plots]`.

A module here imports it, and is imported where something is drawn.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

from ...errors import UserError

SUFFIXES = (".svg", ".png")


def check_file(path: str | Path) -> Path:
    """The path, if a figure can be written there: asked before anything is computed."""
    path = Path(path)
    if path.suffix not in SUFFIXES:
        raise UserError(f"{path}: expected a file name that ends with {' or '.join(SUFFIXES)}")
    if not path.resolve().parent.is_dir():
        raise UserError(f"{path}: {path.parent} is no folder; make it, or name another")
    if importlib.util.find_spec("matplotlib") is None:
        raise UserError('figures need matplotlib: pip install "focaldet[plots]"')
    return path
