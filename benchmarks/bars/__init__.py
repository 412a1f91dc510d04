"""Bars: ratios of times that a set of cases is to reach on the CPU, timed with freed memory kept in
the process and as malloc is by default. What bars/loss.py and bars/suppression.py
share.

A module of bars has the module that times its cases (see command.py), its targets, and a table of
its result, benchmarks/results/NAME/cpu.json, which `benchmarks.tables` renders into
docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from .. import ROOT
from ..heap import HEAPS, environment
from ..report import Row, digits, duration, in_threads, layout, spread, version

RESULTS = ROOT / "benchmarks" / "results"
ROUNDS = 9

Result = dict[str, Any]  # facts, the rows of the cases for each heap, and what else was measured


class Target(NamedTuple):
    """A ratio of times of two providers, `over` / `under`, and what it is to be."""

    work: str
    op: str  # the name of the case
    over: str
    under: str
    bar: float | None
    aim: float | None
    heaps: tuple[str, ...] = tuple(HEAPS)

    @property
    def faster(self) -> bool:
        """Is the ratio the better the larger it is?"""
        return self.under in ("focaldet", "overwrite", "convolutions")

    def text(self, ratio: float, number: Callable[[float], str]) -> str:
        return f"{number(100 * ratio)} %" if self.under == "step" else f"{number(ratio)}x"


def main(
    name: str,
    doc: str | None,
    measured: Callable[[int, bool], Result],  # rounds, quick
    table: Callable[[Result], str],
    argv: Sequence[str] | None,
    usual_rounds: int = ROUNDS,
    wrong: Callable[[Result], Iterator[str]] | None = None,  # else: what is untimed
) -> int:
    """The command `python -m benchmarks.bars.NAME`. A result with which something is wrong is told
    so, and not kept."""
    parser = argparse.ArgumentParser(f"python -m benchmarks.bars.{name}", description=doc)
    parser.add_argument("--rounds", type=int, metavar="N", help=f"default: {usual_rounds}")
    parser.add_argument("--quick", action="store_true", help="tiny inputs, no result")
    args = parser.parse_args(argv)
    result = measured(args.rounds or (2 if args.quick else usual_rounds), args.quick)
    print(f"\n{table(result)}", flush=True)
    problems = list((wrong or untimed)(result))
    for line in problems:
        print(line, file=sys.stderr)
    if not (args.quick or problems):
        path = path_in(RESULTS, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(layout(result) + "\n", encoding="utf-8")
    return int(bool(problems))


def path_in(results: Path, name: str) -> Path:
    return results / name / "cpu.json"


# Measuring --------------------------------------------------------------------------------------


def timed(cases: str, rounds: int, quick: bool) -> Result:
    """Facts, and the rows of the cases in a module here for each heap."""
    options = ["--quick"] if quick else []
    runs = {}
    with tempfile.TemporaryDirectory() as folder:
        for heap in HEAPS:
            path = Path(folder, f"{heap}.json")
            run(cases, "--json", str(path), "--rounds", str(rounds), *options, heap=heap)
            runs[heap] = json.loads(path.read_text())
    facts = runs["kept"]["facts"]
    del facts["heap"]
    return {"facts": facts, **{heap: runs[heap]["rows"] for heap in HEAPS}}


def run(module: str, *arguments: str, heap: str = "default", read: bool = False) -> str | None:
    """Runs a module here in a process with that heap, and returns what it prints, if it is read."""
    return subprocess.run(
        [sys.executable, "-m", f"benchmarks.bars.{module}", *arguments],
        cwd=ROOT,
        env=environment(heap),
        check=True,
        text=True,
        stdout=subprocess.PIPE if read else None,
    ).stdout


def untimed(result: dict[str, Any]) -> Iterator[str]:
    """Why times are missing."""
    for heap in HEAPS:
        for row in result.get(heap, ()):
            if not row["seconds"]:
                yield f"heap {heap}: {row['case']}: {row['provider']} {row['note']}"


# Reporting --------------------------------------------------------------------------------------


def table(result: Result, targets: Sequence[Target], names: Mapping[str, str]) -> str:
    """`names`: of providers, where the table calls them something else."""
    facts = result["facts"]
    quick = " Quick: the figures mean nothing." if facts["quick"] else ""
    lines = [
        f"{facts['cpu']}, {in_threads(facts)}, SIMD {facts['simd']}, {facts['dtype']}; torch "
        f"{version(facts, 'torch')}, torchvision {version(facts, 'torchvision')}; csrc "
        f"`{facts['csrc_sha256'][:12]}`.{quick}",
        "",
        "| work | ratio | bar | aim | heap kept | default malloc |",
        "|---|---|---:|---:|---:|---:|",
    ]
    for target in targets:
        ratio = " / ".join(names.get(name, name) for name in (target.over, target.under))
        goals = [goal(target, value) for value in (target.bar, target.aim)]
        cells = [cell(target, result[heap]) if heap in target.heaps else "" for heap in HEAPS]
        lines.append(f"| {' | '.join([target.work, ratio, *goals, *cells])} |")
    return "\n".join(lines)


def goal(target: Target, value: float | None) -> str:
    sign = "≥" if target.faster else "≤"
    return "" if value is None else f"{sign} {target.text(value, '{:g}'.format)}"


def cell(target: Target, rows: list[dict[str, Any]]) -> str:
    """The median of the ratios within a round, and the medians of the times."""
    found = {row["provider"]: Row(**row) for row in rows if row["op"] == target.op}
    over, under = found[target.over], found[target.under]
    if not (ratios := over.relative_to(under)):
        return ""
    times = " / ".join(duration(spread(row.seconds).median) for row in (over, under))
    return f"{target.text(spread(ratios).median, digits)} ({times})"
