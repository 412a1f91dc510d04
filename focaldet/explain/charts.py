"""Small line charts as SVG that stands in a page and takes its colours: axes from 0 to 1."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 360, 250
LEFT, TOP, RIGHT, BOTTOM = 44, 12, 12, 40
TICKS = (0.0, 0.25, 0.5, 0.75, 1.0)


@dataclass(frozen=True)
class Line:
    name: str
    colour: int  # of the page's, from 0
    y: Sequence[float]  # at evenly spaced x from 0 to 1
    dashed: bool = False


def chart(lines: Sequence[Line], x_label: str, y_label: str) -> str:
    """A `figure` with a legend under the chart."""
    width, height = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM
    parts = []
    for tick in TICKS:
        x, y = LEFT + tick * width, TOP + (1 - tick) * height
        parts.append(
            f'<path class="grid" d="M{LEFT} {y:g}h{width}M{x:g} {TOP}v{height}"/>'
            f'<text x="{LEFT - 6}" y="{y + 4:g}" text-anchor="end">{tick:g}</text>'
            f'<text x="{x:g}" y="{TOP + height + 15}" text-anchor="middle">{tick:g}</text>'
        )
    for line in lines:
        last = max(1, len(line.y) - 1)
        points = " ".join(
            f"{LEFT + i / last * width:.1f},{TOP + (1 - y) * height:.1f}"
            for i, y in enumerate(line.y)
        )
        dashed = ' stroke-dasharray="6 4"' if line.dashed else ""
        parts.append(
            f'<polyline class="line k{line.colour}"{dashed} points="{points}">'
            f"<title>{escape(line.name)}</title></polyline>"
        )
    middle = TOP + height / 2
    return (
        f'<figure class="chart"><svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{escape(y_label)} against {escape(x_label)}">{"".join(parts)}'
        f'<text x="{LEFT + width / 2:g}" y="{HEIGHT - 6}" text-anchor="middle">{escape(x_label)}'
        f'</text><text transform="translate(11 {middle:g}) rotate(-90)" text-anchor="middle">'
        f"{escape(y_label)}</text></svg>{legend(lines)}</figure>"
    )


def legend(lines: Sequence[Line]) -> str:
    names = "".join(
        f'<span class="k{line.colour}{" dashed" * line.dashed}">{escape(line.name)}</span>'
        for line in lines
    )
    return f'<figcaption class="legend">{names}</figcaption>'
