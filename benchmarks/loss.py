"""`python -m benchmarks.loss`: how fast training's loss is on the CPU, and how fast it is to be.

Runs benchmarks.loss_cases twice, with freed memory kept in the process and as malloc is by default,
and benchmarks.loss_memory; writes benchmarks/results/loss/cpu.json, which `benchmarks.tables`
renders into the README. `--quick` takes tiny inputs, to see that all runs, and writes nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from . import ROOT
from .report import COPY, HEAP_KEPT, HEAPS, Row, digits, duration, in_threads, layout, spread

RESULT = ROOT / "benchmarks" / "results" / "loss" / "cpu.json"
ROUNDS = 9


class Target(NamedTuple):
    """A ratio of times of two providers, `over` / `under`, and what it is to be."""

    work: str
    op: str  # in loss_cases.cases
    over: str
    under: str
    bar: float
    aim: float | None
    heaps: tuple[str, ...] = tuple(HEAPS)

    @property
    def faster(self) -> bool:
        """Is the ratio the better the larger it is?"""
        return self.under in ("focaldet", "overwrite")

    def text(self, ratio: float, number: Callable[[float], str]) -> str:
        return f"{number(100 * ratio)} %" if self.under == "step" else f"{number(ratio)}x"


FOCAL = "`sigmoid_focal_loss`, forward and backward, labels"
LOSS = "`retinanet_loss`, forward and backward, 2 images"
STEP = "training step, ResNet-18, 8 images of 240 x 320"
TARGETS = (
    Target(FOCAL, "focal", "torchvision", "focaldet", 12, 20),
    Target(FOCAL, "focal", "torch.compile", "focaldet", 10, 18),
    Target(FOCAL, "focal", "focaldet", COPY, 3, 1.7),
    Target(FOCAL, "focal", "focaldet", "new copy", 1.3, None, ("default",)),
    Target("`match_anchors`, 20 boxes", "match", "torchvision", "focaldet", 40, 100),
    Target("`generate_anchors`", "anchors", "focaldet", "fill", 4, 2),
    Target(LOSS, "retinanet", "torchvision", "focaldet", 20, 40),
    Target(LOSS, "retinanet", "torchvision", "overwrite", 20, 40),
    Target(f"{STEP}, 3 classes", "step, K=3", "focaldet", "step", 0.005, 0.003),
    Target(f"{STEP}, 80 classes", "step, K=80", "focaldet", "step", 0.005, 0.003),
)
# The memory that retinanet_loss takes at most, in multiples of the gradient's, by mode.
MEMORY = {"save_gradient": (1.05, 0.0), "overwrite": (1.05, 0.0)}
# Providers as the table calls them.
NAMES = {
    COPY: "`copy_` of the logits",
    "new copy": "copy into new memory",
    "fill": "`fill_` of its output",
    "overwrite": "focaldet, overwriting",
    "step": "the whole",
}


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser("python -m benchmarks.loss", description=__doc__)
    parser.add_argument("--rounds", type=int, metavar="N", help=f"default: {ROUNDS}")
    parser.add_argument("--quick", action="store_true", help="tiny inputs, no result")
    args = parser.parse_args(argv)
    result = measured(args.rounds or (2 if args.quick else ROUNDS), args.quick)
    print(f"\n{table(result)}", flush=True)
    missing = list(untimed(result))
    for line in missing:
        print(line, file=sys.stderr)
    if not (args.quick or missing):
        RESULT.parent.mkdir(parents=True, exist_ok=True)
        RESULT.write_text(layout(result) + "\n", encoding="utf-8")
    return int(bool(missing))


# Measuring --------------------------------------------------------------------------------------


def measured(rounds: int, quick: bool) -> dict[str, Any]:
    """Facts, the rows of loss_cases for each heap, and bytes for each mode."""
    options = ["--quick"] if quick else []
    runs = {}
    with tempfile.TemporaryDirectory() as folder:
        for heap in HEAPS:
            path = Path(folder, f"{heap}.json")
            run("loss_cases", "--json", str(path), "--rounds", str(rounds), *options, heap=heap)
            runs[heap] = json.loads(path.read_text())
    facts = runs["kept"]["facts"]
    del facts["heap"]
    memory = {mode: json.loads(run("loss_memory", mode, *options, read=True)) for mode in MEMORY}
    return {"facts": facts, **{heap: runs[heap]["rows"] for heap in HEAPS}, "memory": memory}


def run(module: str, *arguments: str, heap: str = "default", read: bool = False) -> str | None:
    """Runs a module here in a process with that heap, and returns what it prints, if it is read."""
    environment = {k: v for k, v in os.environ.items() if k not in HEAP_KEPT}
    if heap == "kept":
        environment |= HEAP_KEPT
    return subprocess.run(
        [sys.executable, "-m", f"benchmarks.{module}", *arguments],
        cwd=ROOT,
        env=environment,
        check=True,
        text=True,
        stdout=subprocess.PIPE if read else None,
    ).stdout


def untimed(result: dict[str, Any]) -> Iterator[str]:
    """Why times are missing."""
    for heap in HEAPS:
        for row in result[heap]:
            if row["note"]:
                yield f"heap {heap}: {row['case']}: {row['provider']} {row['note']}"


# Reporting --------------------------------------------------------------------------------------


def table(result: dict[str, Any]) -> str:
    facts = result["facts"]
    quick = " Quick: the figures mean nothing." if facts["quick"] else ""
    lines = [
        f"{facts['cpu']}, {in_threads(facts)}, SIMD {facts['simd']}, {facts['dtype']}; torch "
        f"{facts['torch']}, torchvision {facts['torchvision'] or 'not installed'}; csrc "
        f"`{facts['csrc_sha256'][:12]}`.{quick}",
        "",
        "| work | ratio | bar | aim | heap kept | default malloc |",
        "|---|---|---:|---:|---:|---:|",
    ]
    for target in TARGETS:
        ratio = " / ".join(NAMES.get(name, name) for name in (target.over, target.under))
        goals = [goal(target, value) for value in (target.bar, target.aim)]
        cells = [cell(target, result[heap]) if heap in target.heaps else "" for heap in HEAPS]
        lines.append(f"| {' | '.join([target.work, ratio, *goals, *cells])} |")
    for mode, (bar, aim) in MEMORY.items():
        taken = result["memory"][mode]
        share = f"{taken['extra'] / taken['gradient']:.3f}x"
        sizes = " / ".join(f"{taken[key] / 1e6:.3g} MB" for key in ("extra", "gradient"))
        lines.append(
            f'| {LOSS}, mode "{mode}" | peak of extra memory / gradient | ≤ {bar:g}x | ≤ {aim:g}x '
            f"|  | {share} ({sizes}) |"
        )
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


if __name__ == "__main__":
    sys.exit(main())
