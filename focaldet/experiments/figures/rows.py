"""The rows of an experiment: a dot for each seed, beside what the paper got on COCO."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..results import Results, Sample, described, sample
from .style import BLUE, GREY, INK, panels


def figure(results: Results) -> Figure:
    """Two panels with the same rows and an axis each, for the AP of two data sets does not compare:
    what does is which rows are better."""
    rows = results["rows"]
    titles = f"measured\n{described(results)}", f"the paper, Table {results['table']}\nCOCO"
    drawn, (ours, papers) = panels(*titles, height=1.4 + 0.3 * len(rows), same_rows=True)
    for y, row in enumerate(rows):
        draw_sample(ours, y, sample(row))
        if row["paper"] is not None:
            papers.plot(row["paper"], y, "D", color=GREY, markersize=5)
    ours.set_yticks(range(len(rows)), [row["label"] for row in rows])
    ours.set_ylim(len(rows) - 0.5, -0.5)  # the first on top
    ours.set_xlabel("AP, %: seeds, their mean ± standard deviation")
    papers.set_xlabel("AP, %")
    for panel in (ours, papers):
        panel.grid(axis="y", visible=False)
    return drawn


def draw_sample(axes: Axes, y: float, seeds: Sample) -> None:
    """Each seed, their mean, and one standard deviation to both sides, if there is one."""
    if not seeds.values:
        axes.text(0.02, y, "open", color=GREY, va="center", transform=axes.get_yaxis_transform())
        return
    axes.errorbar(
        seeds.mean, y, xerr=seeds.deviation, color=BLUE, marker="|", markersize=13, capsize=3
    )
    axes.plot(seeds.values, [y] * len(seeds), "o", markerfacecolor="none", color=INK, markersize=5)
