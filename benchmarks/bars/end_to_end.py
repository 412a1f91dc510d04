"""`python -m benchmarks.bars.end_to_end`: the whole RetinaNet on the CPU, against torchvision's
with the same weights: inference and a training step, where their time goes, and the ceiling.

Every way to run it has a process of its own (end_to_end_worker.py), which is timed in turns with
the others, default malloc, and whose peak of memory is its own. Who finds other detections, or has
other losses, is not timed. Writes benchmarks/results/end_to_end/cpu.json, which `benchmarks.tables`
renders into docs/benchmarks.md. `--quick` takes tiny images and ResNet-18, compiles nothing, to see
that all runs, and writes nothing.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import torch

from focaldet.ops import box_iou

from .. import ROOT, bars
from ..facts import facts
from ..ops.postprocess import detections_differ
from ..report import digits, duration, in_threads, layout, spread, version
from . import Result
from .command import on_cpu
from .end_to_end_worker import PROVIDERS, RATE, setup_of

ROUNDS = 5
BACKBONES = {"inference": "resnet50", "training": "resnet18"}
TOLERANCE = 1e-4  # relative, of scores and losses in float32
# Providers as the tables call them.
NAMES = {
    "torchvision compiled": "torchvision, `torch.compile`, freezing",
    "focaldet": "`RetinaNet`",
    "folded": "BatchNorm folded, channels_last",
    "for_inference": "`for_inference`: and Winograd's way",
    "compiled": "the same, `torch.compile`, freezing",
    "train": "as `focaldet train`: channels_last, Winograd's way",
    "bfloat16": "bfloat16",
}


class Goal(NamedTuple):
    """How many times as fast as torchvision's model, eager, a provider is to be."""

    work: str
    provider: str
    bar: float
    aim: float | None


GOALS = (
    Goal("inference", "for_inference", 1.15, None),
    Goal("inference", "compiled", 1.3, 1.5),
    Goal("training", "train", 1.15, None),
)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser("python -m benchmarks.bars.end_to_end", description=__doc__)
    parser.add_argument("--rounds", type=int, metavar="N", help=f"default: {ROUNDS}")
    parser.add_argument("--backbone", choices=sorted(set(BACKBONES.values())), help="of both works")
    parser.add_argument("--quick", action="store_true", help="tiny inputs, no result")
    args = parser.parse_args(argv)
    if args.rounds is not None and args.rounds < 1:
        parser.error(f"--rounds: expected at least 1, got {args.rounds}")
    rounds = args.rounds or (2 if args.quick else ROUNDS)
    result: Result = {"facts": facts(on_cpu(args.quick))}
    for work, usual in BACKBONES.items():
        backbone = args.backbone or ("resnet18" if args.quick else usual)
        result[work] = measured(work, backbone, rounds, args.quick)
    missing = list(untimed(result))
    if not (args.quick or missing or args.backbone):
        path = bars.path_in(bars.RESULTS, "end_to_end")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(layout(result) + "\n", encoding="utf-8")
    print(f"\n{table(result)}", flush=True)
    for line in missing:
        print(line, file=sys.stderr)
    return int(bool(missing))


# Measuring --------------------------------------------------------------------------------------


class Worker:
    """A provider in its process: what it said when it was ready, and its times."""

    def __init__(self, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.bars.end_to_end_worker", *arguments],
            cwd=ROOT,
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: Any) -> None:
        self.process.kill()
        self.process.communicate()

    def answer(self) -> dict[str, Any]:
        line = self.process.stdout.readline()
        return json.loads(line) if line else {"note": "fails: see above"}

    def turn(self) -> dict[str, Any]:
        try:
            self.process.stdin.write("\n")
            self.process.stdin.flush()
        except BrokenPipeError:  # it has ended: there is no answer either
            pass
        return self.answer()


def measured(work: str, backbone: str, rounds: int, quick: bool) -> dict[str, Any]:
    """By provider: seconds by round, seconds of the parts, peak of memory in bytes, FLOPs."""
    setup, batch, classes = setup_of(work, quick)
    options = ["--backbone", backbone, *(["--quick"] if quick else [])]
    names = [p for p in PROVIDERS[work] if not (quick and "compiled" in p)]
    with ExitStack() as stack:
        weights = str(Path(stack.enter_context(tempfile.TemporaryDirectory()), "weights"))
        with Worker(work, "weights", weights, *options) as maker:
            if maker.process.wait() != 0:
                raise SystemExit(f"benchmarks: error: no weights for {work} (see above)")
        workers, found = {}, {}
        for name in [*names, RATE]:
            workers[name] = stack.enter_context(Worker(work, name, weights, *options))
            found[name] = workers[name].answer()
            print(f"{work}, {name}: {told(found[name])}", flush=True)
        compare(work, found)
        for turn in range(rounds):
            timed = [name for name in found if "note" not in found[name]]
            first = turn % len(timed) if timed else 0
            for name in timed[first:] + timed[:first]:
                answer, said = workers[name].turn(), found[name]
                if "note" in answer:
                    said["note"] = answer["note"]
                else:
                    said.setdefault("seconds", []).append(float(f"{answer['seconds']:.5g}"))
                    said["peak"] = answer["peak"]
    size = {"images": batch, "height": setup.image[0], "width": setup.image[1]}
    return {"backbone": backbone, **size, "classes": classes, "providers": found}


def told(said: dict[str, Any]) -> str:
    return said.get("note") or f"ready in {duration(said['prepared'])}"


def compare(work: str, found: dict[str, dict[str, Any]]) -> None:
    """Adds a note to who disagrees with torchvision, or with `RetinaNet` where there is none, and
    to bfloat16 what it changes. Results are dropped."""
    base = next((name for name in ("torchvision", "focaldet") if "note" not in found[name]), None)
    results = {name: result_of(work, said) for name, said in found.items() if name != RATE}
    for name, result in results.items():
        if base is None or "note" in found[name]:
            continue
        if name == "bfloat16":
            found[name]["changes"] = changes(work, result, results[base])
        elif text := differ(work, result, results[base]):
            found[name]["note"] = f"disagrees with {base}: {text}"


def result_of(work: str, said: dict[str, Any]) -> Any:
    if work == "training":
        return [*said.pop("losses", ()), said.pop("gradient", None)]
    return [
        {name: torch.tensor(rows) for name, rows in one.items()} | {
            "boxes": torch.tensor(one["boxes"]).reshape(-1, 4)
        }
        for one in said.pop("found", ())
    ]  # fmt: skip


def differ(work: str, result: Any, expected: Any) -> str | None:
    if work == "inference":
        return detections_differ(result, expected, TOLERANCE)
    names = ("classification", "box_regression", "gradient")
    for name, mine, theirs in zip(names, result, expected, strict=True):
        # Rounding turns a few ReLUs, which a gradient feels.
        if abs(mine - theirs) > (1e-2 if name == "gradient" else TOLERANCE) * abs(theirs):
            return f"{name} {mine:.6g} instead of {theirs:.6g}"
    return None


def changes(work: str, result: Any, expected: Any) -> str:
    """What bfloat16 does to the result."""
    if work == "training":
        shares = [abs(mine / theirs - 1) for mine, theirs in zip(result, expected, strict=True)]
        return f"losses change by {100 * max(shares[:2]):.2g} %"
    matched, total, moved = 0, 0, 0.0
    for mine, theirs in zip(result, expected, strict=True):
        overlaps = box_iou(theirs["boxes"], mine["boxes"])
        overlaps *= theirs["labels"][:, None] == mine["labels"]
        total += len(overlaps)
        if overlaps.numel() == 0:
            continue
        best, partner = overlaps.max(dim=1)
        both = best > 0.5
        matched += int(both.sum())
        change = (mine["scores"][partner] - theirs["scores"])[both].abs()
        moved = max(moved, float(change.max()) if len(change) else 0.0)
    return f"{matched} of {total} found again at IoU 0.5, scores change by {moved:.2g} at most"


def untimed(result: Result) -> Iterator[str]:
    """Why times are missing."""
    for work in BACKBONES:
        for name, said in result[work]["providers"].items():
            if "note" in said:
                yield f"{work}: {name} {said['note']}"


# Reporting --------------------------------------------------------------------------------------


def table(result: Result) -> str:
    known = result["facts"]
    quick = " Quick: the figures mean nothing." if known["quick"] else ""
    lines = [
        f"{known['cpu']}, {in_threads(known)}, float32 unless said, default malloc; torch "
        f"{version(known, 'torch')}, torchvision {version(known, 'torchvision')}.{quick}"
    ]
    for work in BACKBONES:
        lines += ["", *part(work, result[work])]
    return "\n".join(lines)


def part(work: str, found: dict[str, Any]) -> list[str]:
    """A work: its goals, a row for each provider, and what the ceilings are made of."""
    providers = {n: said for n, said in found["providers"].items() if "note" not in said}
    rate = found["providers"][RATE]
    if "torchvision" not in providers or "seconds" not in rate:
        return [f"{work.capitalize()}: not measured, torchvision is missing."]
    base = providers["torchvision"]
    per_second = rate["flops"][0] / min(rate["seconds"])
    stages = list(base["stages"])
    kind = "Inference" if work == "inference" else "A training step"
    images = f"{found['images']} image{'s' if found['images'] > 1 else ''}"
    lines = [
        f"{kind}, {found['backbone']}, {images} of {found['height']} x {found['width']}, "
        f"{found['classes']} classes:",
        "",
        f"| | torchvision / this | goal | ceiling | time | images/s | peak memory "
        f"| {' | '.join(stages)} |",
        f"|---|---:|---:|---:|---:|---:|---:|{'---:|' * len(stages)}",
    ]
    for name, said in providers.items():
        if name == RATE:
            continue
        seconds = spread(said["seconds"]).median
        ratios = [b / a for a, b in zip(said["seconds"], base["seconds"], strict=True)]
        cells = [
            NAMES.get(name, name),
            "" if said is base else f"{digits(spread(ratios).median)}x",
            goal(work, name),
            ceiling(work, name, providers, per_second),
            duration(seconds),
            digits(found["images"] / seconds),
            f"{said['peak'] / 1e9:.2f} GB",
            *(duration(said["stages"][s]) if "stages" in said else "" for s in stages),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", explained(work, providers, per_second)]
    return lines


def goal(work: str, provider: str) -> str:
    for one in GOALS:
        if (one.work, one.provider) == (work, provider):
            return f"≥ {one.bar:g}x" + (f", aim {one.aim:g}x" if one.aim else "")
    return ""


def ceiling(work: str, name: str, providers: dict[str, Any], per_second: float) -> str:
    """What it would be if all but the convolutions took no time, and all of these, with a quarter
    of the multiplications where Winograd's way is taken, ran at the measured rate."""
    source = "for_inference" if name == "compiled" else name
    if name in ("bfloat16", "torchvision") or "flops" not in providers.get(source, {}):
        return ""
    direct, saved = providers[source]["flops"]
    passes = 3 if work == "training" else 1  # a convolution has two gradients
    seconds = passes * (direct + saved / 4) / per_second
    return f"{digits(spread(providers['torchvision']['seconds']).median / seconds)}x"


def explained(work: str, providers: dict[str, Any], per_second: float) -> str:
    total = sum(providers["torchvision"]["flops"]) * (3 if work == "training" else 1)
    text = (
        f"The ceiling: {total / 1e9:,.0f} GFLOP of convolutions at {per_second / 1e9:.0f} GFLOP/s, "
        "which a layer of the head on P3 reaches alone, done directly"
    )
    best = next((name for name in ("for_inference", "train") if name in providers), None)
    if best:
        direct, saved = providers[best]["flops"]
        text += (
            f"; {100 * saved / (direct + saved):.0f} % of them take a quarter of the "
            "multiplications by Winograd's algorithm, if its transforms are free, all else is, and "
            "its products run at that rate"
        )
    if "changes" in providers.get("bfloat16", {}):
        text += f". In bfloat16 {providers['bfloat16']['changes']}"
    return text + "."


if __name__ == "__main__":
    sys.exit(main())
