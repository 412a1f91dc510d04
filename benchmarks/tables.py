"""`python -m benchmarks.tables`: renders benchmarks/results into the pages that show them.

`python -m benchmarks --device cpu --json benchmarks/results/cpu.json` makes such a result, `bash
benchmarks/gpu.sh` those in gpu/, the modules of benchmarks.bars those that are named like them,
`python -m benchmarks.detector` those in detector/, `python -m benchmarks.experiments` those in
experiments/, and `python tests/wheels.py try` that in wheels/.
Each table stands between two marker lines.
`--check` changes nothing, and exits with 1 if they do not say what the results say. A CPU's table
names the csrc/ that it measured and outlives it; what is said of a GPU turns into "not measured
since" with the first change of csrc/, once.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from . import ROOT, bars, detector, experiments, headline, wheels
from .bars import (
    checking,
    checkpoint,
    drop_in,
    end_to_end,
    evaluation,
    loading,
    loss,
    recipes,
    suppression,
    training,
)
from .gpu import outcomes
from .report import LIMITS, Row, digits, duration, in_threads, spread, version
from .sources import csrc_sha256

Run = dict[str, Any]  # a result: facts and rows, or machine and steps

MEMORY = "memory"  # the limit of each case, whatever it is
COLUMNS = {  # providers, and what the table calls those that are no packages
    "focaldet": "focaldet",
    MEMORY: "copy or read of the same bytes",
    "torchvision": "torchvision",
    "torch.compile": "torch.compile",
    "reference": "reference",
}
BARS = {
    "loss": loss.table,
    "suppression": suppression.table,
    "end_to_end": end_to_end.table,
    "drop_in": drop_in.table,
    "recipes": recipes.table,
    "checking": checking.table,
    "loading": loading.table,
    "evaluation": evaluation.table,
    "training": training.table,
    "checkpoint": checkpoint.table,
}
PAGES = {  # below the root, and the sections between markers in each
    "README.md": ("headline",),
    "docs/benchmarks.md": ("benchmarks", "loss", "suppression", "end_to_end", "drop_in"),
    "docs/guides/install.md": ("wheels",),
    "docs/guides/data.md": ("checking",),
    "docs/guides/train.md": ("loading", "checkpoint", "evaluation", "bccd", "bccd-slim", "nuclei"),
    "docs/guides/scale.md": ("training",),
    "docs/guides/experiments.md": experiments.SECTIONS,
    "examples/README.md": ("recipes",),
}


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser("python -m benchmarks.tables", description=__doc__)
    parser.add_argument("--check", action="store_true", help="exit with 1 if a page differs")
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results")
    parser.add_argument("--root", type=Path, default=ROOT, help="the folder of the README")
    args = parser.parse_args(argv)
    different = {}
    for name, sections in PAGES.items():
        page = args.root / name
        text = rendered = read(page)
        for section in sections:
            rendered = replace(rendered, section, partial(content, args.results, section), page)
        if rendered != text:
            different[page] = rendered
    for page, rendered in different.items():
        if args.check:
            print(f"{page} does not say what {args.results} says; run this without --check")
        else:
            page.write_text(rendered, encoding="utf-8")
    return int(bool(args.check and different))


def content(results: Path, section: str) -> str:
    """What stands between the markers of a section."""
    if section == "headline":
        return headline.render(*measured(results))
    if section == "benchmarks":
        return render(*measured(results))
    if section in experiments.SECTIONS:
        return experiments.section(results, section)
    if section == "wheels":
        path, writer = results / "wheels" / "linux.json", "`python tests/wheels.py try`"
        show = wheels.table
    elif section in BARS:
        path, writer = bars.path_in(results, section), f"`python -m benchmarks.bars.{section}`"
        show = BARS[section]
    else:
        path, writer = results / "detector" / f"{section}.json", "`python -m benchmarks.detector`"
        show = detector.table
    return show(parse(path, writer)) if path.exists() else "Not measured yet."


def replace(text: str, name: str, section: Callable[[], str], readme: Path) -> str:
    """The text with the section between its two marker lines."""
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    before, found, rest = text.partition(begin + "\n")
    _, found_end, after = rest.partition(end)
    if not (found and found_end):
        stop(f"{readme}: expected the lines {begin} and {end}")
    return f"{before}{begin}\n\n{section()}\n\n{end}{after}"


def measured(results: Path) -> tuple[list[Run], list[Run]]:
    """What `python -m benchmarks` wrote, and what benchmarks/gpu.sh did."""
    writer = "`bash benchmarks/gpu.sh`"
    return (
        [load(path) for path in sorted(results.glob("*.json"))],
        [parse(path, writer) for path in sorted(results.glob("gpu/*.json"))],
    )


def render(runs: Sequence[Run], gpus: Sequence[Run]) -> str:
    """A table for each result, and a line for each kind of device that has none."""
    cpu_tables = [table("CPU", run) for run in runs if run["facts"]["device"] == "cpu"]
    gpu_tables = [gpu(result) for result in gpus]
    return "\n\n".join(
        (cpu_tables or ["CPU: not measured yet."]) + (gpu_tables or ["GPU: not measured yet."])
    )


def gpu(result: Run) -> str:
    """What benchmarks/gpu.sh found, in a line, and a table for each dtype."""
    timed = [part for part in result["steps"].values() if "rows" in part]
    lines = [outcomes.headline(result, csrc_sha256()), *(table("GPU", part) for part in timed)]
    return "\n\n".join(lines)


def table(title: str, run: Run) -> str:
    facts = run["facts"]
    heap = "heap kept" if facts["heap"] == "kept" else "default malloc"
    caption = (
        f"{title}: {facts['gpu'] or facts['cpu']}, {in_threads(facts)}, SIMD "
        f"{facts['simd']}, {facts['dtype']}, {heap}; torch {version(facts, 'torch')}, torchvision "
        f"{version(facts, 'torchvision')}; csrc `{facts['csrc_sha256'][:12]}`."
    )
    cases: dict[tuple[str, str], dict[str, dict[str, Row]]] = {}  # by way and provider
    for fields in run["rows"]:
        row = Row(**fields)
        name = MEMORY if row.provider in LIMITS else row.provider
        cases.setdefault((row.case, row.cache), {}).setdefault(row.way, {})[name] = row
    there = {name for ways in cases.values() for rows in ways.values() for name in rows}
    columns = {name: title for name, title in COLUMNS.items() if name in there}
    lines = [
        caption,
        "",
        f"| | {' | '.join(columns.values())} |",
        f"|---|{'---:|' * len(columns)}",
    ]
    for (case, cache), ways in cases.items():
        *parts, rows = ways.values()  # the last is the whole
        title = case + ", forward and backward" * bool(parts) + ", cold caches" * (cache == "cold")
        cells = [cell(rows.get(name), rows.get("focaldet")) for name in columns]
        lines.append(f"| {title} | {' | '.join(cells)} |")
    return "\n".join(lines)


def cell(row: Row | None, focaldet: Row | None) -> str:
    """The median, and behind it that of the ratios to focaldet."""
    if row is None or not row.seconds:
        return "differs" if row and row.note.startswith("disagrees") else ""
    text = duration(spread(row.seconds).median)
    if row.provider == "focaldet" or not (ratios := row.relative_to(focaldet)):
        return text
    ratio = spread(ratios).median
    return f"{text} ({digits(ratio) if ratio >= 1 else f'{ratio:.2g}'}x)"


def load(path: Path) -> Run:
    run = parse(path, "`python -m benchmarks --json`")
    if run["facts"]["quick"]:
        stop(f"{path}: its figures are of a --quick run and mean nothing")
    return run


def parse(path: Path, writer: str) -> Run:
    try:
        return json.loads(read(path))
    except json.JSONDecodeError as error:
        stop(f"{path}: expected what {writer} writes ({error})")


def read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        stop(f"{path}: {error.strerror}")


def stop(message: str) -> NoReturn:
    print(f"benchmarks: error: {message}", file=sys.stderr)
    sys.exit(2)


if __name__ == "__main__":
    sys.exit(main())
