"""`python -m benchmarks.experiments NAME FILE [FILE ...]`: keeps what the paper's experiments gave.

FILE: a results.json that `focaldet experiment` wrote, or the --json of `focaldet figure 4`, on the
data set called NAME. Copies them to benchmarks/results/experiments/NAME/, from which
`benchmarks.tables` fills docs/guides/experiments.md, and draws them to docs/experiments/.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from focaldet.experiments.cumulative import HARDEST, KINDS
from focaldet.experiments.report import draw, report, sweep_for
from focaldet.experiments.results import read_results
from focaldet.files import read_json

from . import ROOT

RESULTS = ROOT / "benchmarks" / "results" / "experiments"
PICTURES = ROOT / "docs" / "experiments"
FIGURE_4 = "figure4"
SECTIONS = ("ce-alpha", "fl-gamma", "anchors", "ohem", "speed-accuracy", FIGURE_4)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser("python -m benchmarks.experiments", description=__doc__)
    parser.add_argument("name", help="of the data set, as files are to be called")
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--pictures", type=Path, default=PICTURES)
    args = parser.parse_args(argv)
    folder = args.results / args.name
    for each in (folder, args.pictures):
        each.mkdir(parents=True, exist_ok=True)
    for file in args.files:
        content = read_json(file)
        if "gammas" not in content:
            content = dict(read_results(file))
            content["data"] = {"name": args.name, **content["data"]}
        section = content.get("experiment", FIGURE_4)
        (folder / f"{section}.json").write_text(json.dumps(content, indent=1) + "\n")
        _draw(content, args.pictures / f"{args.name}-{section}.svg")
    return 0


def _draw(content: dict[str, Any], picture: Path) -> None:
    if "gammas" in content:
        from focaldet.experiments.figures import cumulative, style

        style.write(picture, lambda: cumulative.figure(content))
    else:
        draw(content, picture)


def section(results: Path, name: str) -> str:
    """What the page says of an experiment: for each data set its text, and its picture if drawn."""
    files = sorted((results / "experiments").glob(f"*/{name}.json"))
    return "\n\n".join(_part(file, name) for file in files) or "Not measured yet."


def _part(file: Path, name: str) -> str:
    data = file.parent.name
    if name == FIGURE_4:
        text = f"{data}: {shares(read_json(file))}"
    else:
        found = read_results(file)
        text = report(found, sweep_for(found, lambda other: file.with_name(f"{other}.json")))
    picture = PICTURES / f"{data}-{name}.svg"
    if picture.exists():
        text += f"\n\n![{name} on {data}](../experiments/{picture.name})"
    return text


def shares(numbers: dict[str, Any]) -> str:
    """The table of Figure 4: what the hardest anchors have of the loss of their kind."""
    counts = " and ".join(f"{numbers['anchors'][kind]:,} {kind}" for kind in KINDS)
    columns = [f"{kind}, hardest {fraction:.0%}" for kind in KINDS for fraction in HARDEST]
    lines = [
        f"{counts} anchors of {numbers['images']} images; part of the loss of their kind:",
        "",
        f"| gamma | {' | '.join(columns)} |",
        f"|---|{'---:|' * len(columns)}",
    ]
    for row in numbers["gammas"]:
        cells = [
            f"{row[kind]['share_of_hardest'][f'{f:g}']:.1%}" for kind in KINDS for f in HARDEST
        ]
        lines.append(f"| {row['gamma']:g} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    raise SystemExit(main())
