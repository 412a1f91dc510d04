"""`python -m benchmarks.bars.training`: what a training step waits for, and what processes cost.

One epoch of ResNet-18 at 320 pixels on generated scenes, as `focaldet train` does it by default: by
one process with two threads, and by two processes with one thread each, which average their
gradients by gloo (torchrun). In turns; the steps after the first few count. Writes
benchmarks/results/training/cpu.json, which `benchmarks.tables` renders into docs/guides/scale.md.
`--quick` takes a small model and few images, to see that all runs, and writes nothing.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from focaldet.data import generate_scenes

from .. import ROOT, bars
from ..facts import facts
from ..report import digits, duration, in_threads, spread, version
from . import Result
from .command import on_cpu

IMAGES, BATCH, SIZE = 304, 8, 320  # about as many images as BCCD has for training
ROUNDS = 3  # of four minutes
VALIDATION = 8  # images: evaluation is not what is timed
SETTLING = 3  # steps
WAYS = {"one process": 1, "two processes": 2}
BARS = {"ratio": 0.9, "waited": 0.03, "saving": 0.02}


def main(argv: Sequence[str] | None = None) -> int:
    return bars.main("training", __doc__, measured, table, argv, ROUNDS)


# Measuring --------------------------------------------------------------------------------------


def measured(rounds: int, quick: bool) -> Result:
    """By way: of each round, what a run said of itself."""
    images, size = (40, 64) if quick else (IMAGES, SIZE)
    result: Result = {"facts": facts(on_cpu(quick)), "images": images, "size": size}
    del result["facts"]["heap"]
    runs: dict[str, list[dict[str, Any]]] = {way: [] for way in WAYS}
    with tempfile.TemporaryDirectory() as folder:
        scenes = Path(folder)
        for name, count, seed in (("train", images, 0), ("val", VALIDATION, 1)):
            generate_scenes(scenes / name, images=count, seed=seed, size=size, objects=(5, 15))
        for number in range(rounds):
            for way, processes in WAYS.items():
                out = Path(folder, f"{number}-{processes}")
                runs[way].append(trained(scenes, out, processes, size))
                print(f"{way}: {told(runs[way][-1])}", flush=True)
    return result | {"runs": runs}


def trained(scenes: Path, out: Path, processes: int, size: int) -> dict[str, Any]:
    """Seconds of its steps, of waiting for data in them, of saving, and of all the epoch."""
    start = [sys.executable]
    if processes > 1:
        start += ["-m", "torch.distributed.run", "--nproc-per-node", str(processes)]
    threads = max(1, len(os.sched_getaffinity(0)) // processes)
    done = subprocess.run(
        [*start, "-m", "benchmarks.bars.training_worker", str(scenes), str(out), str(size)],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": str(threads)},
        text=True,
        stdout=subprocess.PIPE,
    )
    if done.returncode:
        raise SystemExit(f"benchmarks: error: a run of {processes} failed (see above)")
    records = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    steps = [record for record in records if "lr" in record][SETTLING:]
    return {
        "step": [record["seconds"] for record in steps],
        "waited": [record["waited_for_data"] for record in steps],
        "epoch": sum(record["seconds"] for record in records if "lr" in record),
        "saving": json.loads((out / "saving.json").read_text()),
    }


# Reporting --------------------------------------------------------------------------------------


def told(run: dict[str, Any]) -> str:
    return f"{duration(median(run['step']))} a step"


def ratios(result: Result) -> list[float]:
    """Throughput of two processes by that of one, by round."""
    one, two = (result["runs"][way] for way in WAYS)
    return [median(a["step"]) / median(b["step"]) for a, b in zip(one, two, strict=True)]


def table(result: Result) -> str:
    known = result["facts"]
    quick = " Quick: the figures mean nothing." if known["quick"] else ""
    lines = [
        f"{known['cpu']}, {in_threads(known)}; torch {version(known, 'torch')}. ResNet-18, "
        f"{result['size']} pixels, {BATCH} images a step, {result['images']} images, 2 workers a "
        f"process.{quick}",
        "",
        "| | a step | images/s | waiting for data | saving, of an epoch |",
        "|---|---:|---:|---:|---:|",
    ]
    for way, runs in result["runs"].items():
        step = median(median(run["step"]) for run in runs)
        waited = median(sum(run["waited"]) / sum(run["step"]) for run in runs)
        saving = median(run["saving"] / (run["epoch"] + run["saving"]) for run in runs)
        cells = [
            f"{way}, {'2 threads' if WAYS[way] == 1 else '1 thread each, gloo'}",
            duration(step),
            digits(BATCH / step),
            f"{digits(100 * waited)} %",
            f"{digits(100 * saving)} %",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    lines.append(
        f"| two by one | | {digits(spread(ratios(result)).median)}x (bar: {BARS['ratio']}x) | "
        f"bar: {100 * BARS['waited']:g} % | bar: {100 * BARS['saving']:g} % |"
    )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
