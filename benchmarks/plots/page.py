"""A result as one HTML page that needs nothing else: facts, figures and every row."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from html import escape
from typing import Any

from ..report import Row, Spread, digits, duration, size, spread
from . import figures, series
from .series import LIMIT

# Of each colour that the figures are drawn in, what takes its place on a dark screen.
DARK = {
    figures.INK: "#e6edf3",
    figures.MUTED: "#8d96a0",
    figures.GRID: "#30363d",
    "#d55e00": "#ff7a1a",
    "#0072b2": "#4aa8e8",
    "#009e73": "#2fc796",
    "#a07800": "#d6a520",
    "#7a5fc7": "#a48cf0",
    "#b8336a": "#e8689a",
    "#2f7f86": "#5cb8c0",
}
FACTS = {
    "cpu": "Processor",
    "cores": "Cores",
    "gpu": "GPU",
    "device": "Device",
    "dtype": "Type",
    "threads": "Threads",
    "simd": "SIMD",
    "heap": "malloc",
    "focaldet": "focaldet",
    "torch": "torch",
    "torchvision": "torchvision",
    "python": "Python",
    "csrc_sha256": "csrc SHA-256",
    "sweep": "Sweep over",
}
CSS = """
:root { color-scheme: light dark; --paper: #ffffff; --stripe: #f6f8fa; LIGHT }
@media (prefers-color-scheme: dark) { :root { --paper: #0d1117; --stripe: #161b22; DARK } }
body { margin: 0 auto; padding: 2rem 1.5rem 4rem; max-width: 62rem; background: var(--paper);
  color: var(INK); font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
h1 { font-size: 1.6rem; margin: 0 0 .3rem; }
h2 { font-size: 1.15rem; margin: 2.5rem 0 .75rem; }
p { margin: .3rem 0; max-width: 46rem; }
.muted, th, dt { color: var(MUTED); }
.warn { font-weight: 600; color: var(OURS); }
dl { display: grid; grid-template-columns: repeat(auto-fill, minmax(11.5rem, 1fr));
  gap: .9rem 1.5rem; margin: 1.5rem 0; padding: 1rem 1.25rem;
  background: var(--stripe); border-radius: 8px; }
dt { font-size: .78rem; } dd { margin: 0; overflow-wrap: anywhere; }
.legend { display: flex; flex-wrap: wrap; gap: .3rem 1.4rem; margin: .5rem 0 1rem; }
.legend span::before { content: ""; display: inline-block; width: 1.5rem; margin-right: .5rem;
  vertical-align: middle; border-top: 3px solid var(--look); }
.legend .limit::before { border-top: 2px dashed var(INK); }
svg { display: block; width: 100%; height: auto; margin: .5rem 0 1.5rem; }
svg text { font-family: system-ui, -apple-system, "Segoe UI", Roboto, sans-serif !important; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .88rem;
  font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .7rem; text-align: right; white-space: nowrap; }
th { font-weight: 500; border-bottom: 1px solid var(GRID); }
th:first-child, td:first-child { text-align: left; padding-left: .5rem; }
tr.case td { padding-top: .9rem; font-weight: 600; white-space: normal; }
tr.ours td { background: var(--stripe); }
td.note { text-align: left; white-space: normal; }
"""


def page(facts: dict[str, Any], rows: Sequence[Row]) -> str:
    charts = "\n".join(themed(figures.svg(chart)) for chart in figures.charts(facts, rows))
    quick = '<p class="warn">A quick run: the figures mean nothing.</p>' if facts["quick"] else ""
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>focaldet, microbenchmarks</title>
<style>{style()}</style>
</head>
<body>
<h1>focaldet, microbenchmarks</h1>
<p class="muted">{escape(figures.machine(facts))}</p>
{quick}
<dl>{"".join(fact(name, value) for name, value in named(facts))}</dl>
<div class="legend">{"".join(legend(rows))}</div>
{charts}
<h2>Every row</h2>
<p class="muted">Medians and quartiles of the times of a call; ratios are of times within one round.
The limit is what this machine needs for the bytes that must be read and written at least; the peak,
what tensors take beside the inputs.</p>
<div class="scroll"><table>
<tr><th></th><th>median</th><th>quartiles</th><th>× focaldet</th><th>× limit</th>
<th>peak memory</th></tr>
{"".join(line for case in series.cases(rows) for line in case_lines(case))}
</table></div>
</body>
</html>
"""


# Colours ----------------------------------------------------------------------------------------


def variable(colour: str) -> str:
    return f"--c{colour[1:]}"


def style() -> str:
    """The colours of the figures are variables, which a dark screen sets anew."""
    css = CSS
    light, dark = (
        " ".join(f"{variable(light)}: {pick};" for light, pick in pairs)
        for pairs in (zip(DARK, DARK, strict=True), DARK.items())
    )
    ours = figures.LOOKS["focaldet"][0]
    names = {"INK": figures.INK, "MUTED": figures.MUTED, "GRID": figures.GRID, "OURS": ours}
    for name, colour in names.items():
        css = css.replace(f"var({name})", f"var({variable(colour)})")
    return css.replace("LIGHT", light).replace("DARK", dark)


def themed(svg: str) -> str:
    """To stand in a page: without the prologue and namespaces, and in its colours."""
    svg = re.sub(r' xmlns(:\w+)?="[^"]*"', "", svg[svg.index("<svg") :])
    svg = re.sub(r' (width|height)="[\d.]+pt"', "", svg, count=2)
    for colour in DARK:
        svg = svg.replace(colour, f"var({variable(colour)})")
    return svg


def legend(rows: Sequence[Row]) -> Iterator[str]:
    for name, (colour, _) in figures.looks_of(rows).items():
        look = f"var({variable(colour)})" if colour in DARK else colour
        yield f'<span style="--look: {look}">{escape(name)}</span>'
    if any(case.limit() for case in series.cases(rows)):
        yield f'<span class="limit">{figures.LIMIT_LABEL}</span>'


# Facts and rows ---------------------------------------------------------------------------------


def named(facts: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """What is known, in words; bandwidths in GB/s."""
    for name, title in FACTS.items():
        if facts.get(name) is not None:
            yield title, str(facts[name])[: 12 if name == "csrc_sha256" else None]
    for name, bandwidth in (facts.get("limits") or {}).items():
        yield f"Bandwidth, {name}", f"{bandwidth / 1e9:.3g} GB/s"


def fact(name: str, value: str) -> str:
    return f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>"


def case_lines(case: series.Case) -> Iterator[str]:
    yield f'<tr class="case"><td colspan="6">{escape(case.title)}</td></tr>\n'
    ratios = {base: case.ratios(base) for base in ("focaldet", LIMIT)}
    for row in case.providers:
        name = escape(row.provider)
        if not row.seconds:
            note = f'<td class="note muted" colspan="5">{escape(row.note)}</td>'
            yield f"<tr><td>{name}</td>{note}</tr>\n"
            continue
        cells = "".join(f"<td>{text}</td>" for text in numbers(row, ratios))
        remark = f'<br><span class="muted">{escape(row.note)}</span>' if row.note else ""
        kind = "ours" if series.ours(row.provider) else "peer"
        yield f'<tr class="{kind}"><td>{name}{remark}</td>{cells}</tr>\n'


def numbers(row: Row, ratios: dict[str, dict[str, Spread]]) -> Iterator[str]:
    middle, low, high = map(duration, spread(row.seconds))
    yield from (middle, f"{low} – {high}")
    for base, found in ratios.items():
        there = row.provider in found and row.provider != base
        yield digits(found[row.provider].median) if there else ""
    yield size(row.peak) if row.peak is not None else ""
