"""One HTML page for an image: needs no other file or script, and reads light, dark and printed."""

from __future__ import annotations

from html import escape

from ..plots import COLOURS
from .look import Look
from .pictures import photo
from .sections import sections

LIGHT = "--paper: #ffffff; --stripe: #f6f8fa; --ink: #24292f; --muted: #59636e; --grid: #d8dee4;"
DARK = "--paper: #0d1117; --stripe: #161b22; --ink: #e6edf3; --muted: #9198a1; --grid: #30363d;"
CSS = """
:root { LIGHT }
@media screen { :root { color-scheme: light dark; } }
@media screen and (prefers-color-scheme: dark) { :root { DARK } }
body { margin: 0 auto; padding: 2rem 1.5rem 4rem; max-width: 68rem; background: var(--paper);
  color: var(--ink); font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
h1 { font-size: 1.6rem; margin: 0; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; margin: 2.8rem 0 .6rem; } h3 { font-size: 1rem; margin: 1.4rem 0 .5rem; }
p { margin: .4rem 0; max-width: 48rem; }
.muted, th, dt, figcaption { color: var(--muted); }
dl { display: grid; grid-template-columns: repeat(auto-fill, minmax(11rem, 1fr)); gap: .8rem 1.5rem;
  margin: 1.2rem 0; padding: 1rem 1.25rem; background: var(--stripe); border-radius: 8px; }
dt { font-size: .78rem; } dd { margin: 0; overflow-wrap: anywhere; }
figure { margin: 0; break-inside: avoid; } figcaption { font-size: .82rem; margin: .25rem 0 .6rem; }
.figures { display: grid; gap: .6rem 1.2rem; margin: .8rem 0; }
.small { grid-template-columns: repeat(auto-fill, minmax(11.5rem, 1fr)); }
.half { grid-template-columns: repeat(auto-fill, minmax(min(100%, 24rem), 1fr)); }
svg.drawing, .chart svg { display: block; width: 100%; height: auto; overflow: hidden; }
svg.drawing { background: var(--stripe); border-radius: 4px; }
svg.wide { max-height: 85vh; }
svg.pale use { opacity: .75; }
rect { fill: none; stroke: var(--k, var(--ink)); stroke-width: 2; vector-effect: non-scaling-stroke;
  pointer-events: all; }
rect.truth { stroke: #ffffff; stroke-dasharray: 6 4; }
rect.crowd { stroke: #ffffff; stroke-dasharray: 2 5; }
rect.under { stroke: #000000; stroke-width: 3.5; stroke-opacity: .55; pointer-events: none; }
rect.thin { stroke-width: 1; }
rect.faint { stroke-opacity: .25; }
svg.dim rect { stroke-opacity: .08; } svg.dim rect.hot { stroke-opacity: 1; stroke-width: 2.5; }
.drawing text { fill: #ffffff; stroke: var(--k, #000000); stroke-width: .3em; paint-order: stroke;
  stroke-linejoin: round; font-weight: 600; pointer-events: none; }
.chart text { fill: var(--muted); font-size: 11px; }
.grid { fill: none; stroke: var(--grid); stroke-width: .7; }
.line { fill: none; stroke: var(--k); stroke-width: 2; stroke-linejoin: round; }
.legend { display: flex; flex-wrap: wrap; gap: .1rem 1rem; }
.legend span::before { content: ""; display: inline-block; width: 1.5rem; margin-right: .4rem;
  vertical-align: middle; border-top: 3px solid var(--k); }
.legend .dashed::before { border-top-style: dashed; }
.legend .dotted::before { border-top-style: dotted; }
.legend .truth, .legend .crowd { --k: var(--ink); }
@media screen and (prefers-color-scheme: dark) { .line, .legend { filter: brightness(1.5); } }
.scroll { overflow-x: auto; break-inside: auto; }
table { border-collapse: collapse; margin: .6rem 0; font-size: .86rem;
  font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .7rem; text-align: right; vertical-align: top; }
th { font-weight: 500; text-align: left; border-bottom: 1px solid var(--grid); }
td.words { text-align: left; } td.words:last-child { min-width: 18rem; }
tbody tr:nth-child(2n) { background: var(--stripe); }
tr[data-c]:is(:hover, :focus) { outline: 2px solid var(--muted); }
summary { cursor: pointer; }
"""
# Of a detection under the pointer, the boxes that it suppressed stand out in the drawings.
SCRIPT = """
for (const row of document.querySelectorAll("tr[data-c]")) {
  const rects = document.querySelectorAll(`rect[data-c="${row.dataset.c}"]`);
  const drawings = new Set([...rects].map((rect) => rect.ownerSVGElement));
  const show = (on) => {
    for (const rect of rects) rect.classList.toggle("hot", on);
    for (const drawing of drawings) drawing.classList.toggle("dim", on);
  };
  row.tabIndex = 0;
  for (const event of ["mouseenter", "focus"]) row.addEventListener(event, () => show(true));
  for (const event of ["mouseleave", "blur"]) row.addEventListener(event, () => show(false));
}
"""


def page(look: Look) -> str:
    colours = "\n".join(f".k{i} {{ --k: {colour}; }}" for i, colour in enumerate(COLOURS))
    style = CSS.replace("LIGHT", LIGHT).replace("DARK", DARK) + colours
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(look.name)}: what the detector does</title>
<style>{style}</style>
</head>
<body>
{photo(look.picture)}
<h1>{escape(look.name)}</h1>
<p class="muted">What the detector {escape(look.weights)} does on this image.</p>
{"".join(sections(look))}
<script>{SCRIPT}</script>
</body>
</html>
"""
