"""`python -m benchmarks.bars.checkpoint`: what it costs to save a training run, against writing and
syncing the same bytes, and against the ways of torch and safetensors.

The state is that of RetinaNet with AdamW, on the CPU. All ways are timed in turns, into a folder
here, on the disk; the memory of each is that of a process of its own. Writes
benchmarks/results/checkpoint/cpu.json, which `benchmarks.tables` renders into docs/guides/train.md.
`--quick` takes tiny states, to see that all runs, and writes nothing.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from focaldet.checkpoint import LAST

from .. import ROOT, bars
from ..clock import seconds_of
from ..facts import facts
from ..report import digits, duration, in_threads, layout, spread, version
from . import Result
from .checkpoint_cases import BACKBONES, LIMIT, LOAD, PROVIDERS, State, limit, ours
from .command import on_cpu

BAR = 2.0  # times the limit
SHARE = 0.02  # of a run, for checkpoints
NAMES = {"safetensors": "safetensors' `save_file`, no hash", "torch.save": "`torch.save`, no hash"}


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser("python -m benchmarks.bars.checkpoint", description=__doc__)
    parser.add_argument("--rounds", type=int, metavar="N", help=f"default: {bars.ROUNDS}")
    parser.add_argument("--quick", action="store_true", help="tiny states, no result")
    args = parser.parse_args(argv)
    result = measured(args.rounds or (2 if args.quick else bars.ROUNDS), args.quick)
    print(f"\n{table(result)}", flush=True)
    if not args.quick:
        path = bars.path_in(bars.RESULTS, "checkpoint")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(layout(result) + "\n", encoding="utf-8")
    return 0


def measured(rounds: int, quick: bool) -> Result:
    """By backbone: the size of a checkpoint, and seconds by round and growth of each provider."""
    result: Result = {"facts": facts(on_cpu(quick))}
    for backbone in BACKBONES:
        found = timed(State.of(backbone, quick), rounds)
        options = ["--backbone", backbone, *(["--quick"] if quick else [])]
        for name in PROVIDERS:
            printed = bars.run("checkpoint_cases", name, *options, read=True)
            found["providers"][name] |= json.loads(printed)
        result[backbone] = found
    return result


def timed(state: State, rounds: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(dir=ROOT) as name:
        folder = Path(name)
        ours(state, folder)
        runs = {n: (lambda p=p: p(state, folder)) for n, p in PROVIDERS.items()}
        runs[LIMIT] = limit(folder)
        seconds: dict[str, list[float]] = {n: [] for n in runs}
        for turn in range(-1, rounds):  # the first is not counted
            first = turn % len(runs)
            for n in [*runs][first:] + [*runs][:first]:
                once = seconds_of(runs[n], 1)
                if turn >= 0:
                    seconds[n].append(float(f"{once:.5g}"))
        size = (folder / LAST).stat().st_size
    return {"bytes": size, "providers": {n: {"seconds": s} for n, s in seconds.items()}}


def table(result: Result) -> str:
    known = result["facts"]
    quick = " Quick: the figures mean nothing." if known["quick"] else ""
    lines = [
        f"{known['cpu']}, {in_threads(known)}; torch {version(known, 'torch')}.{quick}",
        "",
        "| state | way | time | / limit | bar | memory beside the state |",
        "|---|---|---:|---:|---:|---:|",
    ]
    for backbone in BACKBONES:
        lines += rows(backbone, result[backbone])
    seconds = spread(result[BACKBONES[0]]["providers"]["focaldet"]["seconds"]).median
    lines += [
        "",
        f"The limit writes, syncs and renames the same bytes. With {BACKBONES[0]}, checkpoints "
        f"every {duration(seconds / SHARE)} or less often take {100 * SHARE:g} % of a run at most.",
    ]
    return "\n".join(lines)


def rows(backbone: str, found: dict[str, Any]) -> list[str]:
    providers = found["providers"]
    base = providers[LIMIT]["seconds"]
    result = []
    for name in ("focaldet", "safetensors", "torch.save", LIMIT, LOAD):
        said = providers[name]
        ratios = [a / b for a, b in zip(said["seconds"], base, strict=True)]
        cells = [
            f"{backbone}, {found['bytes'] / 1e6:.0f} MB" if name == "focaldet" else "",
            NAMES.get(name, name),
            duration(spread(said["seconds"]).median),
            f"{digits(spread(ratios).median)}x" if name not in (LIMIT, LOAD) else "",
            f"≤ {BAR:g}x" if name == "focaldet" else "",
            f"{said['extra'] / 1e6:.0f} MB" if "extra" in said else "",
        ]
        result.append(f"| {' | '.join(cells)} |")
    return result


if __name__ == "__main__":
    sys.exit(main())
