"""How the figures look, and how they become files: the same numbers, the same bytes.

Colours are those of Okabe and Ito, which colour-blind readers tell apart; lines differ by their
dashes, too. The ground is light, so that a figure reads on a dark page.
"""

from __future__ import annotations

import io
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ...files import write_atomically

COLOURS = BLUE, ORANGE, GREEN, RED, PURPLE = ("#0072b2", "#e69f00", "#009e73", "#d55e00", "#cc79a7")
INK, GREY = "#222222", "#8a8a8a"
DASHES: tuple[Any, ...] = ("-", (0, (6, 2)), (0, (2, 1.5)), "-.", (0, (1, 1)))

_SETTINGS: dict[Any, Any] = {
    "svg.hashsalt": "focaldet",  # else ids are random
    "svg.fonttype": "path",  # looks the same wherever it is read
    "font.family": "DejaVu Sans",  # comes with matplotlib
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": INK,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e4e4e4",
    "legend.frameon": False,
    "legend.fontsize": 8,
    "lines.linewidth": 1.6,
    "figure.facecolor": "#fbfbfb",
    "axes.facecolor": "#fbfbfb",
    "savefig.facecolor": "#fbfbfb",
}


def rendered(draw: Callable[[], Figure], form: str = "svg") -> bytes:
    """The figure that `draw` makes, as SVG or PNG, without a date."""
    nothing = {"Date": None, "Creator": None} if form == "svg" else {"Software": None}
    file = io.BytesIO()
    with matplotlib.rc_context(_SETTINGS):
        draw().savefig(file, format=form, dpi=150, metadata=nothing)
    return file.getvalue()


def write(path: str | Path, draw: Callable[[], Figure]) -> None:
    """Replaces `path` by what `draw` makes, whole or not at all; as SVG or PNG, by its suffix."""
    write_atomically(path, rendered(draw, Path(path).suffix[1:]))


def panels(
    *titles: str, width: float = 7.8, height: float = 3.2, same_rows: bool = False
) -> tuple[Figure, list[Axes]]:
    """Axes side by side in a figure of this size in inches; their vertical axis may be one."""
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = list(figure.subplots(1, len(titles), squeeze=False, sharey=same_rows)[0])
    room = int(width / len(titles) * 11)  # characters
    for panel, title in zip(axes, titles, strict=True):
        lines = [textwrap.fill(line, room) for line in title.splitlines()]
        panel.set_title("\n".join(lines), loc="left")
    return figure, axes
