"""What is drawn over the picture: SVG, in pixels of the picture, which the page holds once."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Sequence
from html import escape

import numpy as np
from PIL import Image
from torch import Tensor

from ..plots import COLOURS

MOST = 1600  # pixels of the embedded picture's long side


def photo(picture: Image.Image) -> str:
    """The picture, to be shown by `<use href="#photo"/>` wherever it is wanted."""
    width, height = picture.size
    small = picture.copy()
    small.thumbnail((MOST, MOST), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    small.save(file, "JPEG", quality=88)
    return (
        '<svg width="0" height="0" style="position:absolute" aria-hidden="true"><defs>'
        f'<image id="photo" width="{width}" height="{height}" preserveAspectRatio="none" '
        f'href="data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"/>'
        "</defs></svg>"
    )


def drawing(
    size: tuple[int, int],
    shapes: Iterable[str],
    label: str,
    window: Sequence[float] | None = None,
    css: str = "",
) -> str:
    """The picture of (width, height) `size` under the shapes; only a window [x1, y1, x2, y2] of it
    where one is given."""
    x1, y1, x2, y2 = window or (0, 0, *size)
    return (
        f'<svg class="drawing {css}" viewBox="{x1:.1f} {y1:.1f} {x2 - x1:.1f} {y2 - y1:.1f}" '
        f'role="img" aria-label="{escape(label)}"><use href="#photo"/>{"".join(shapes)}</svg>'
    )


def rect(box: Sequence[float], css: str, title: str = "", **data: int) -> str:
    """A box [x1, y1, x2, y2] with a text that shows under the pointer."""
    x1, y1, x2, y2 = box
    given = "".join(f' data-{name}="{value}"' for name, value in data.items())
    inner = f"<title>{escape(title)}</title>" if title else ""
    return (
        f'<rect class="{css}"{given} x="{x1:.1f}" y="{y1:.1f}" width="{max(0.0, x2 - x1):.1f}" '
        f'height="{max(0.0, y2 - y1):.1f}">{inner}</rect>'
    )


def text(box: Sequence[float], words: str, css: str, size: float) -> str:
    """Words at the upper left of a box, above it where there is room."""
    y = box[1] - 0.25 * size if box[1] > 1.2 * size else box[1] + size
    return (
        f'<text class="{css}" x="{max(0.0, box[0]):.1f}" y="{y:.1f}" font-size="{size:.1f}">'
        f"{escape(words)}</text>"
    )


def around(box: Tensor, size: tuple[int, int], margin: float = 0.75) -> list[float]:
    """A square window about a box, with a margin in its sides, moved into the picture."""
    x1, y1, x2, y2 = box.tolist()
    side = max(x2 - x1, y2 - y1, 8.0) * (1 + 2 * margin)
    window = []
    for low, high, most in ((x1, x2, size[0]), (y1, y2, size[1])):
        start = (low + high - side) / 2
        window.append(max(0.0, min(start, most - side)) if side < most else (most - side) / 2)
    return [*window, window[0] + side, window[1] + side]


def heat(scores: Tensor, highest: float) -> str:
    """Scores [H, W] in [0, highest] as a PNG in a data URI: from transparent to opaque yellow."""
    level = (scores / max(highest, 1e-12)).clamp(0, 1).mul(63).round().byte().numpy()
    picture = Image.fromarray(level)
    shade = np.linspace(0, 1, 64)
    # Dark red over orange to yellow: what is higher is lighter, in print, too.
    red, green = 120 + 135 * shade**0.5, 255 * shade**1.3
    palette = np.stack([red, green, 30 * shade], 1).round().astype(np.uint8)
    picture.putpalette(palette.tobytes())  # its mode is "P" now
    file = io.BytesIO()
    alpha = (230 * shade**0.6).astype(np.uint8).tobytes()
    picture.save(file, "PNG", transparency=alpha, optimize=True)
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


def colour(label: int) -> str:
    """The CSS class of a class."""
    return f"k{label % len(COLOURS)}"
