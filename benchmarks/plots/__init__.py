"""Draws a result: `--plot FILE.png`, or FILE.html for a page with the facts and the tables."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..report import Row
from ..stored import Unusable, flat

ENDINGS = (".png", ".html")


def check(paths: Sequence[Path]) -> None:
    """Before anything is timed: can they be written?"""
    for path in paths:
        if path.suffix not in ENDINGS or not path.resolve().parent.is_dir():
            raise Unusable(f"--plot {path}: expected a .png or .html file in a folder that exists")
    if paths and importlib.util.find_spec("matplotlib") is None:
        raise Unusable('--plot needs matplotlib: pip install "focaldet[plots]"')


def write(path: Path, facts: dict[str, Any], rows: Sequence[Row]) -> None:
    from . import figures, page

    facts = flat(facts)
    if path.suffix == ".html":
        path.write_text(page.page(facts, rows), encoding="utf-8")
    else:
        figures.save_png(path, facts, rows)
