"""`python -m benchmarks.bars.drop_in_whole`: times torchvision's detectors as they are and
accelerated, whole, on the CPU, for the bars of drop_in.py.

One process, the same weights, the providers in turns. Who has other losses or detections is not
timed.
"""

from __future__ import annotations

import argparse
import copy
import gc
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import nn

from focaldet.integrations.torchvision import Report, accelerate

from ..case import Run
from ..inputs import Setup
from ..ops.postprocess import detections_differ
from ..report import Row, duration, spread
from .command import on_cpu
from .drop_in_models import (
    Detector,
    detectors,
    inference,
    model_of,
    pictures,
    size_of,
    training_step,
)

WORKS = ("inference", "training")
EXACT, CLOSE = 1e-5, 1e-4  # relative, of losses: the same convolutions, and others
# R-CNNs sample proposals by their place, and torchvision sorts equal scores as it happens.
SAMPLED = 1e-2


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser("python -m benchmarks.bars.drop_in_whole", description=__doc__)
    parser.add_argument("--json", type=Path, required=True, metavar="FILE")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args(argv)
    rows: list[Row] = []
    replaced: dict[str, list[str]] = {}
    for name, detector in detectors(args.quick).items():
        setup = size_of(name, on_cpu(args.quick))
        models, report = providers(name, detector, setup)
        replaced[name] = list(dict.fromkeys(row.by for row in report.replaced))
        for work in WORKS:
            rows += timed(work, name, detector, models, setup, args.rounds)
        del models
        gc.collect()
    result = {"rows": [asdict(row) for row in rows], "replaced": replaced}
    args.json.write_text(json.dumps(result))
    return 0


def providers(name: str, detector: Detector, setup: Setup) -> tuple[dict[str, nn.Module], Report]:
    """torchvision's model and accelerated copies of it."""
    model = model_of(detector, setup, pictures(setup, 2)[0])
    ours = copy.deepcopy(model)
    report = accelerate(ours)
    models = {"torchvision": model, "focaldet": ours}
    if name == "RetinaNet":
        models["convolutions"] = copy.deepcopy(model)
        accelerate(models["convolutions"], convolutions=True)
    return models, report


def timed(
    work: str,
    name: str,
    detector: Detector,
    models: dict[str, nn.Module],
    setup: Setup,
    rounds: int,
) -> list[Row]:
    batch = 1 if work == "inference" else detector.batch
    images, targets = pictures(setup, batch)
    make: Callable[[nn.Module], Run] = (
        (lambda model: inference(model, images))
        if work == "inference"
        else (lambda model: training_step(model, images, targets))
    )
    runs = {provider: make(model) for provider, model in models.items()}
    sizes = {"B": batch, "height": setup.image[0], "width": setup.image[1]}
    rows = {
        provider: Row(f"{work}, {name}", f"{detector.title}, {work}", provider, None, sizes=sizes)
        for provider in runs
    }
    results = {provider: run() for provider, run in runs.items()}
    for provider, text in disagreements(work, name, results):
        rows[provider].note = f"disagrees with torchvision: {text}"
        del runs[provider]
    for turn in range(max(1, rounds // (2 if work == "inference" else 3))):
        names = list(runs)
        first = turn % len(names)
        for provider in names[first:] + names[:first]:
            start = time.perf_counter()
            runs[provider]()
            rows[provider].seconds.append(float(f"{time.perf_counter() - start:.5g}"))
    for row in rows.values():
        text = row.note or duration(spread(row.seconds).median)
        print(f"{row.case}, {row.provider}: {text}", file=sys.stderr, flush=True)
    return list(rows.values())


def disagreements(work: str, name: str, results: dict[str, Any]) -> Iterator[tuple[str, str]]:
    expected = results["torchvision"]
    for provider, found in results.items():
        tolerance = CLOSE if provider == "convolutions" else EXACT
        if work == "inference":
            if len(expected[0]["scores"]) == 0:
                yield provider, "it found nothing to compare"
            text = detections_differ(found, expected, tolerance)
        else:
            text = losses_differ(found, expected, SAMPLED if name == "Faster R-CNN" else tolerance)
        if text:
            yield provider, text


def losses_differ(
    found: dict[str, float], expected: dict[str, float], tolerance: float
) -> str | None:
    for name, theirs in expected.items():
        # Rounding turns a few ReLUs, which a gradient feels.
        bound = max(tolerance, 1e-2) if name == "gradient" else tolerance
        if not abs(found[name] - theirs) <= bound * abs(theirs):
            return f"{name} {found[name]:.8g} instead of {theirs:.8g}"
    return None


if __name__ == "__main__":
    sys.exit(main())
