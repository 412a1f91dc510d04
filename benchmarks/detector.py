"""`python -m benchmarks.detector COMMAND RUN [RUN ...]`: keeps what training runs reached.

Reads metrics.jsonl of the run folders that the command made with --seed 0, 1, ..., and writes
benchmarks/results/detector/NAME.json (--name), which `benchmarks.tables` renders into
docs/guides/train.md.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from focaldet.words import counted

from . import ROOT
from .facts import cpu_model

RESULTS = ROOT / "benchmarks" / "results" / "detector"
COLUMNS = ("AP", "AP50", "AP75")


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser("python -m benchmarks.detector", description=__doc__)
    parser.add_argument("command", help="the command, without --seed and --out")
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--name", required=True)
    parser.add_argument(
        "--scores",
        nargs="+",
        type=Path,
        help="of each run, that `focaldet evaluate --json` wrote of its last weights",
    )
    args = parser.parse_args(argv)
    runs = [outcome(run) for run in args.runs]
    if args.scores:
        for run, file in zip(runs, args.scores, strict=True):
            run["stats"] = json.loads(file.read_text())["stats"]
    result = {
        "command": args.command,
        "cpu": cpu_model(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "runs": [{"seed": seed, **run} for seed, run in enumerate(runs)],
    }
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / f"{args.name}.json").write_text(json.dumps(result, indent=1) + "\n")
    return 0


def outcome(run: Path) -> dict[str, Any]:
    """Training time and final scores of a run."""
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    epochs = [record for record in records if "images_per_second" in record]
    return {
        "epochs": epochs[-1]["epoch"],
        "training_seconds": round(sum(epoch["seconds"] for epoch in epochs), 1),
        "stats": epochs[-1]["stats"],
    }


def table(result: dict[str, Any]) -> str:
    lines = [
        f"`{result['command']}` on {result['cpu']}, {counted(result['threads'], 'thread')}, torch "
        f"{result['torch']}; the weights after the last epoch, on the validation images:",
        "",
        f"| seed | {' | '.join(COLUMNS)} | training |",
        f"|---|{'---:|' * (len(COLUMNS) + 1)}",
    ]
    for run in result["runs"]:
        scores = " | ".join(f"{run['stats'][name]:.3f}" for name in COLUMNS)
        minutes = run["training_seconds"] / 60
        lines.append(f"| {run['seed']} | {scores} | {minutes:.1f} min |")
    return "\n".join(lines)


if __name__ == "__main__":
    raise SystemExit(main())
