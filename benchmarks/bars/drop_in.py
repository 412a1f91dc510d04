"""`python -m benchmarks.bars.drop_in`: what torchvision's detectors gain on the CPU from
`focaldet.integrations.torchvision.accelerate`.

Runs drop_in_cases.py, the replaced stages of a RetinaNet, twice, with freed memory kept in the
process and as malloc is by default, and drop_in_whole.py, whole detectors, as malloc is by default;
writes benchmarks/results/drop_in/cpu.json, which `benchmarks.tables` renders into
docs/benchmarks.md. `--quick` takes tiny images, to see that all runs, and writes nothing.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from .. import bars
from ..report import Row, digits, duration, spread
from . import Result, Target

AGAINST = "torchvision", "focaldet"
DEFAULT = ("default",)
INFERENCE = "RetinaNet R50, inference, 1 image"
TRAINING = "RetinaNet R50, training step, 2 images"
CONVOLUTIONS = "torchvision", "convolutions"
TARGETS = (
    Target("RetinaNet, loss stage, forward and backward, 2 images", "loss", *AGAINST, 15, None),
    Target("RetinaNet, post-process stage, 1 image", "post-process", *AGAINST, 15, None),
    Target(INFERENCE, "inference, RetinaNet", *AGAINST, 1.05, None, DEFAULT),
    Target(INFERENCE, "inference, RetinaNet", *CONVOLUTIONS, 1.05, None, DEFAULT),
    Target(TRAINING, "training, RetinaNet", *AGAINST, 1.15, None, DEFAULT),
    Target(TRAINING, "training, RetinaNet", *CONVOLUTIONS, 1.15, None, DEFAULT),
)
# The replaced stage of each whole.
STAGES = {INFERENCE: ("inference", "post-process"), TRAINING: ("training", "loss")}
# Providers as the table calls them.
NAMES = {"focaldet": "accelerated", "convolutions": "accelerated with `convolutions=True`"}


def main(argv: Sequence[str] | None = None) -> int:
    return bars.main("drop_in", __doc__, measured, table, argv)


def measured(rounds: int, quick: bool) -> Result:
    options = ["--rounds", str(rounds), *(["--quick"] if quick else [])]
    result = bars.timed("drop_in_cases", rounds, quick)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "whole.json")
        bars.run("drop_in_whole", "--json", str(path), *options)
        whole = json.loads(path.read_text())
    result["default"] += whole["rows"]
    return {**result, "replaced": whole["replaced"]}


def table(result: Result) -> str:
    lines = [bars.table(result, TARGETS, NAMES)]
    for title, (work, stage) in STAGES.items():
        cell = ceiling(result, work, stage)
        lines.append(
            f"| {title} | ceiling: torchvision / (torchvision - stage) |  |  |  | {cell} |"
        )
    lines += ["", "| detector | calls instead | inference, 1 image | training step |"]
    lines.append("|---|---|---:|---:|")
    for name, operators in result["replaced"].items():
        cells = [gain(result, f"{work}, {name}") for work in ("inference", "training")]
        called = ", ".join(f"`{each}`" if "_" in each else each for each in operators)
        lines.append(f"| {title_of(result, name)} | {called} | {' | '.join(cells)} |")
    return "\n".join(lines)


def rows_of(result: Result, op: str) -> dict[str, Row]:
    rows = (Row(**row) for row in result["default"] if row["op"] == op)
    return {row.provider: row for row in rows}


def ceiling(result: Result, work: str, stage: str) -> str:
    """The whole's ratio if what is replaced took no time."""
    whole = rows_of(result, f"{work}, RetinaNet")["torchvision"]
    part = rows_of(result, stage)["torchvision"]
    if not (whole.seconds and part.seconds):
        return ""
    all_of_it, saved = (spread(row.seconds).median for row in (whole, part))
    ratio = f"{digits(all_of_it / (all_of_it - saved))}x" if all_of_it > saved else "none"
    return f"{ratio} ({duration(all_of_it)}, stage {duration(saved)})"


def title_of(result: Result, name: str) -> str:
    row = rows_of(result, f"inference, {name}")["torchvision"]
    return f"{row.case.removesuffix(', inference')}, {row.sizes['height']} x {row.sizes['width']}"


def gain(result: Result, op: str) -> str:
    rows = rows_of(result, op)
    theirs, ours = (rows[name] for name in AGAINST)
    if not (ratios := theirs.relative_to(ours)):
        return ""
    times = " / ".join(duration(spread(row.seconds).median) for row in (theirs, ours))
    batch = theirs.sizes["B"]
    images = f", {batch} images" if batch > 1 else ""
    return f"{digits(spread(ratios).median)}x ({times}{images})"


if __name__ == "__main__":
    sys.exit(main())
