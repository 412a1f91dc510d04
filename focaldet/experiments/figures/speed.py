"""Figure 2: accuracy against the time of inference, as published and as measured."""

from __future__ import annotations

from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .. import paper
from ..results import Results, described, milliseconds, sample
from .style import BLUE, COLOURS, GREY, INK, ORANGE, panels

_BACKBONES = {50: (BLUE, "o"), 101: (ORANGE, "D")}  # colour and mark, as in the paper
_NOTE: dict[str, Any] = {"textcoords": "offset points", "fontsize": 7, "va": "center"}


def figure(results: Results | None = None) -> Figure:
    """The published systems; in a panel of its own, with its own axes, what `speed-accuracy` gave:
    other data and another machine."""
    titles = ["published\nCOCO test-dev"]
    if results is not None:
        titles.append(f"measured\n{described(results)}")
    drawn, axes = panels(*titles, width=5.4 if results is None else 9.0, height=4.2)
    _published(axes[0])
    if results is not None:
        _measured(axes[1], results)
    for panel in axes:
        panel.set(xlabel="time of an image, ms", ylabel="AP, %")
        panel.legend(loc="lower right")
    return drawn


def _published(axes: Axes) -> None:
    for name, point in paper.FIGURE_2.items():
        axes.plot(point.milliseconds, point.ap, "s", color=GREY, markersize=5)
        right = name != "SSD321"  # DSSD321 stands there
        side, offset = ("left", 6) if right else ("right", -6)
        place = point.milliseconds, point.ap
        axes.annotate(name, place, xytext=(offset, -1), ha=side, **_NOTE)
    for depth, (colour, mark) in _BACKBONES.items():
        points = [point for (d, _), point in paper.SPEED_ACCURACY.items() if d == depth]
        times, aps = [p.milliseconds for p in points], [p.ap for p in points]
        axes.plot(times, aps, marker=mark, color=colour, label=f"RetinaNet-{depth}, 400 to 800 px")
    axes.set_xlim(0, 340)
    _untimed(axes)


def _untimed(axes: Axes) -> None:
    """Systems of Table 2 whose time was not published: at the edge, by their AP."""
    edge, timed = axes.get_yaxis_transform(), {point.ap for point in paper.FIGURE_2.values()}
    rest = {name: result.ap for name, result in paper.TABLE_2.items() if result.ap not in timed}
    lowest = 0.0
    for name, ap in sorted(rest.items(), key=lambda item: item[1]):
        lowest = max(ap, lowest + 0.6)  # of the name, above that of the one before
        axes.plot(1, ap, "<", color=GREY, transform=edge, clip_on=False)
        text = name if name.startswith("RetinaNet") else name.partition(",")[0]
        axes.annotate(text, (1, lowest), xycoords=edge, xytext=(-7, 0), ha="right", **_NOTE)
    axes.annotate("no time published", (1, 42), xycoords=edge, xytext=(0, 0), ha="right", **_NOTE)
    axes.set_ylim(top=42.5)


def _measured(axes: Axes, results: Results) -> None:
    """A line for each backbone, through the rows that are done and were timed."""
    backbones: dict[str, list[tuple[float, float]]] = {}
    for row in results["rows"]:
        times, aps = milliseconds(row), sample(row)
        if times.values and aps.values:
            name = row["changes"].get("model", {}).get("backbone", row["label"])
            backbones.setdefault(name, []).append((times.mean, aps.mean))
            each = [times.mean] * len(aps)
            axes.plot(each, aps.values, "o", markerfacecolor="none", color=INK, markersize=4)
    for (name, points), colour in zip(backbones.items(), COLOURS, strict=False):
        axes.plot(*zip(*points, strict=True), marker="_", markersize=10, color=colour, label=name)
    if not backbones:
        axes.text(0.5, 0.5, "open", color=GREY, ha="center", transform=axes.transAxes)
    axes.set_xlim(left=0)
