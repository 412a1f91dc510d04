"""Figures of a result, drawn with matplotlib: of a sweep, time and memory along its axis; otherwise
every case's times as multiples of what the memory needs for its bytes."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter, FixedLocator, FuncFormatter, LogLocator, NullLocator

from ..report import Row, Spread, duration, in_threads, spread
from . import series
from .series import LIMIT, Case, Line, Panel

INK, MUTED, GRID = "#24292f", "#6e7781", "#d8dee4"
# After Okabe and Ito, who chose hues that colour-blind people tell apart. Markers differ as well.
LOOKS = {
    "focaldet": ("#d55e00", "o"),
    "torchvision": ("#0072b2", "s"),
    "reference": ("#8a8f98", "D"),
    "torch.compile": ("#009e73", "^"),
    "detectron2": ("#cc79a7", "v"),
    "mmcv": ("#a07800", "P"),
    "apex": ("#56b4e9", "X"),
    "ultralytics": ("#7a5fc7", "*"),
}
OTHERS = (("#b8336a", "h"), ("#2f7f86", "p"), ("#6b8e23", "<"))
STYLE = {
    "font.family": "sans-serif",
    "font.size": 9,
    "text.color": INK,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "focaldet",  # the same figure, the same bytes
}
WIDTH = 10.0  # inches
LIMIT_LABEL = "limit: the least bytes / bandwidth"
LABELS = {
    "N": "N, anchors or boxes",
    "K": "K, classes",
    "boxes": "boxes of the ground truth",
    "candidates": "candidates, logits above the threshold",
    "threads": "threads",
    "dtype": "",
}


class Chart(NamedTuple):
    """What stands side by side."""

    title: str
    height: float  # inches
    draw: list[Callable[[Axes], None]]


def charts(facts: dict[str, Any], rows: Sequence[Row]) -> list[Chart]:
    looks = looks_of(rows)
    if axis := facts.get("sweep"):
        return [sweep_chart(panel, looks) for panel in series.panels(axis, rows)]
    return list(case_charts(rows, looks))


def save_png(path: Path, facts: dict[str, Any], rows: Sequence[Row]) -> None:
    with matplotlib.rc_context(STYLE):
        found, top = charts(facts, rows), 0.75
        heights = [chart.height for chart in found]
        figure = Figure((WIDTH, top + sum(heights)), layout="constrained", facecolor="white")
        ratios = [top, *heights]
        head, *parts = figure.subfigures(len(ratios), 1, height_ratios=ratios, squeeze=False)[:, 0]
        head.text(0.012, 0.72, caption(facts), fontsize=10, va="center")
        legend(head, rows, loc="lower left", bbox_to_anchor=(0.0, -0.05))
        for part, chart in zip(parts, found, strict=True):
            fill(part, chart)
        figure.savefig(path, dpi=150)


def svg(chart: Chart) -> str:
    with matplotlib.rc_context(STYLE):
        figure = Figure((WIDTH, chart.height), layout="constrained")
        fill(figure, chart)
        file = io.StringIO()
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(file, format="svg", transparent=True, metadata=nothing)
    return file.getvalue()


def fill(figure: Figure | SubFigure, chart: Chart) -> None:
    figure.suptitle(chart.title, x=0.012, ha="left", fontsize=10.5, fontweight="bold")
    places = figure.subplots(1, len(chart.draw), squeeze=False)[0]
    for draw, axes in zip(chart.draw, places, strict=True):
        draw(axes)


def caption(facts: dict[str, Any]) -> str:
    quick = "   QUICK: THE FIGURES MEAN NOTHING" if facts["quick"] else ""
    return f"focaldet, microbenchmarks:  {machine(facts)}{quick}"


def machine(facts: dict[str, Any]) -> str:
    parts = {
        "where": facts["gpu"] or facts["cpu"],
        "threads": "" if facts["gpu"] else in_threads(facts),
        "dtype": facts["dtype"],
        "torch": f"torch {facts['torch']}",
    }
    swept = facts.get("sweep")
    return ", ".join(text for name, text in parts.items() if text and name != swept)


# Providers --------------------------------------------------------------------------------------


def looks_of(rows: Iterable[Row]) -> dict[str, tuple[str, str]]:
    """Colour and marker of each provider, the same in every result."""
    names = series.providers(rows)
    unknown = [name for name in names if name not in LOOKS]
    more = {name: OTHERS[i % len(OTHERS)] for i, name in enumerate(unknown)}
    return {name: LOOKS.get(name) or more[name] for name in names}


def line_style(name: str, look: tuple[str, str] | None) -> dict[str, Any]:
    if look is None:  # the limit
        return {"color": INK, "linestyle": (0, (5, 3)), "linewidth": 1.1}
    ours = series.ours(name)
    return {
        "color": look[0],
        "marker": look[1],
        "markersize": 5.5 if ours else 4.5,
        "linewidth": 2.2 if ours else 1.3,
        "zorder": 4 if ours else 3,
    }


def legend(figure: SubFigure, rows: Sequence[Row], **place: Any) -> None:
    handles = [
        Line2D([], [], label=name, **line_style(name, look))
        for name, look in looks_of(rows).items()
    ]
    if any(case.limit() for case in series.cases(rows)):
        handles.append(Line2D([], [], label=LIMIT_LABEL, **line_style(LIMIT, None)))
    figure.legend(
        handles=handles, ncols=max(1, len(handles)), frameon=False, handlelength=2.4, **place
    )


# Sweeps -----------------------------------------------------------------------------------------


def sweep_chart(panel: Panel, looks: dict[str, tuple[str, str]]) -> Chart:
    fixed = series.sizes_text(panel.fixed)
    title = f"{panel.title}{f'   ({fixed})' if fixed else ''}"

    draw = partial(draw_lines, panel.axis, looks)
    drawers = [partial(draw, panel.seconds, "time of a call, seconds", "s")]
    if panel.peak:
        drawers.append(partial(draw, panel.peak, "peak memory of tensors, bytes", "B"))
    return Chart(title, 3.3, drawers)


def draw_lines(
    axis: str,
    looks: dict[str, tuple[str, str]],
    lines: dict[str, Line],
    label: str,
    unit: str,
    axes: Axes,
) -> None:
    values = list(dict.fromkeys(x for line in lines.values() for x in line.x))
    words = any(isinstance(value, str) for value in values)
    place = {value: i if words else value for i, value in enumerate(values)}
    for name, line in lines.items():
        style, x = line_style(name, looks.get(name)), [place[value] for value in line.x]
        axes.plot(x, [y.median for y in line.y], **style)
        if name != LIMIT:
            low, high = [y.low for y in line.y], [y.high for y in line.y]
            axes.fill_between(x, low, high, color=style["color"], alpha=0.18, linewidth=0)
    axes.set_yscale("log" if unit == "s" else "symlog")
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(EngFormatter(unit, sep=" "))
    axes.set(xlabel=LABELS.get(axis, axis), ylabel=label)
    if words:
        axes.set_xticks(list(place.values()), list(map(str, place)))
        axes.margins(x=0.1)
    else:
        log_axis(axes, values)


def log_axis(axes: Axes, values: Sequence[Any]) -> None:
    """With the values that were measured for its ticks, while they are few."""
    axes.set_xscale("log")
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_locator(FixedLocator(values) if len(values) <= 8 else LogLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))


# Cases ------------------------------------------------------------------------------------------


class Dots(NamedTuple):
    """A case: its providers' times as ratios, and focaldet's in seconds."""

    label: str
    y: float
    ratios: dict[str, Spread]
    time: str


def case_charts(rows: Sequence[Row], looks: dict[str, tuple[str, str]]) -> Iterator[Chart]:
    """Times are relative to the limit, or, of cases that have none, to focaldet's."""
    cases = series.cases(rows)
    for base, name in ((LIMIT, "the limit"), ("focaldet", "focaldet's")):
        mine = [case for case in cases if bool(case.limit()) == (base == LIMIT)]
        if dots := list(placed(mine, base)):
            title = f"Time of a call, as a multiple of {name}"
            yield Chart(title, 1.2 + 0.36 * (dots[-1].y + 1), [partial(draw_dots, dots, looks)])


def placed(cases: Sequence[Case], base: str) -> Iterator[Dots]:
    """From the top down, with a gap between operators."""
    y, last = -1.0, None
    for case in cases:
        if ratios := case.ratios(base):
            y, last = y + (1.0 if last in (None, case.first.op) else 1.5), case.first.op
            mine = case.rows.get("focaldet")
            time = duration(spread(mine.seconds).median) if mine and mine.seconds else ""
            yield Dots(wrapped(case.title), y, ratios, time)


def wrapped(title: str) -> str:
    return textwrap.fill(title.replace(" = ", "\N{NO-BREAK SPACE}=\N{NO-BREAK SPACE}"), 52)


def draw_dots(dots: Sequence[Dots], looks: dict[str, tuple[str, str]], axes: Axes) -> None:
    for case in dots:
        for name, ratio in case.ratios.items():
            style = line_style(name, looks[name])
            axes.plot([ratio.low, ratio.high], [case.y] * 2, **style | {"marker": ""})
            axes.plot([ratio.median], [case.y], **style | {"markersize": style["markersize"] + 2})
        time = {"ha": "left", "va": "center", "transform": axes.get_yaxis_transform()}
        axes.text(1.01, case.y, case.time, color=looks["focaldet"][0], fontsize=8.5, **time)
    axes.axvline(1.0, **line_style(LIMIT, None))
    axes.set_yticks([case.y for case in dots], [case.label for case in dots], fontsize=8.5)
    axes.set_ylim(dots[-1].y + 0.6, -0.6)
    axes.set_xscale("log")
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}x"))
    axes.tick_params(top=len(dots) > 12, labeltop=len(dots) > 12)  # a long way from the bottom
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="y", linestyle=(0, (1, 3)))
