"""How all pictures look: as the figures of the package do, which settles their bytes, too.

Black and grey are kept for what is not told apart by colour.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import PathPatch
from matplotlib.path import Path
from matplotlib.transforms import Affine2D
from torch import Tensor

from focaldet.experiments.figures import style

COLOURS = BLUE, ORANGE, GREEN, RED, PURPLE, SKY = (*style.COLOURS, "#56b4e9")
INK, GREY = style.INK, style.GREY


def svg(draw: Callable[[], Figure]) -> bytes:
    """The picture that `draw` makes, without a date."""
    return style.rendered(draw)


def panels(*titles: str, height: float = 3.0, width: float = 7.4) -> list[Axes]:
    """Axes side by side, in a figure of this size in inches."""
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = list(figure.subplots(1, len(titles), squeeze=False)[0])
    for panel, title in zip(axes, titles, strict=True):
        panel.set_title(title)
    return axes


def labelled(axes: Axes, x: str, y: str) -> None:
    """Names of the axes, and of what the legend has."""
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    if axes.get_legend_handles_labels()[1]:
        axes.legend()


def show(axes: Axes, image: np.ndarray | None, size: tuple[int, int]) -> None:
    """An image paled, so that lines on it are seen; or its (height, width) empty. y points down."""
    height, width = size
    if image is not None:
        # "none" keeps the image's own pixels.
        pale = (0.45 * image + 0.55 * 255).astype(np.uint8)
        axes.imshow(pale, extent=(0, width, height, 0), interpolation="none")
    axes.set(xlim=(0, width), ylim=(height, 0), aspect="equal", xticks=[], yticks=[])
    axes.grid(False)
    for side in ("top", "right", "bottom", "left"):
        axes.spines[side].set(visible=True, color=GREY)


def outline(
    axes: Axes,
    boxes: Tensor,  # [n, 4]
    colours: str | Sequence[str],
    width: float = 1.2,
    style: str = "-",
) -> None:
    """The edges of boxes, in one colour or one each."""
    each = [colours] * len(boxes) if isinstance(colours, str) else colours
    for colour in dict.fromkeys(each):  # one path a colour, which takes fewer bytes
        rows = [row for row, name in zip(boxes.tolist(), each, strict=True) if name == colour]
        edges = Path.make_compound_path(
            *(Path.unit_rectangle().transformed(_onto(*row)) for row in rows)
        )
        axes.add_patch(
            PathPatch(edges, fill=False, edgecolor=colour, linewidth=width, linestyle=style)
        )


def _onto(x1: float, y1: float, x2: float, y2: float) -> Affine2D:
    """From the unit square onto a box."""
    return Affine2D().scale(x2 - x1, y2 - y1).translate(x1, y1)


def tag(axes: Axes, x: float, y: float, text: str, colour: str = INK) -> None:
    """A few characters on a light ground."""
    ground = {"facecolor": "#fbfbfb", "edgecolor": "none", "pad": 0.8, "alpha": 0.85}
    axes.text(x, y, text, color=colour, fontsize=7, va="bottom", bbox=ground)
