"""`python -m benchmarks.bars.evaluation`: COCO's scores of 500,000 detections by each evaluator.

Drawn detections, as many as a detector gives on the 5,000 validation images of COCO, are scored
from a model's tensors and from records in COCO's results form: all that is done between these and
the scores is timed, checks too. With the data sets that FOCALDET_DATA names, their published
detections are scored as well. Who gives other numbers than pycocotools fails. Writes
benchmarks/results/evaluation/cpu.json, which `benchmarks.tables` renders into docs/guides/train.md.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from focaldet.errors import UserError
from focaldet.found import Found
from focaldet.models import Detection
from focaldet.scoring import EVALUATORS, Scores, check_evaluator, evaluate_detections

from .. import bars
from ..facts import facts
from ..report import digits, duration, spread
from . import Result
from .command import on_cpu

ROUNDS = 3
GOAL = 2.0  # seconds for what is drawn
TOLERANCE = 1e-9  # of any number
USUAL, FAST = "pycocotools", "ultrafast"
WIDTH, HEIGHT = 640, 480


def main(argv: Sequence[str] | None = None) -> int:
    try:
        check_evaluator(FAST)
    except UserError as error:
        raise SystemExit(f"benchmarks: error: {error}") from error
    return bars.main("evaluation", __doc__, measured, table, argv, ROUNDS, others)


# What is scored ---------------------------------------------------------------------------------


class Drawn(NamedTuple):
    truth: dict[str, Any]  # COCO's dict
    detections: list[Detection]  # of the images 0, 1, ...; a label is a category id


def draw(images: int, truths: int, per_image: int, classes: int = 80) -> Drawn:
    """Boxes of all sizes, 1 % of them crowds. Of the detections 60 % are near a box of their image,
    most with its class, the others anywhere."""
    rng = np.random.default_rng(0)

    def anywhere(count: int) -> np.ndarray:  # x, y, width, height
        sides = np.exp(rng.normal(4, 1, (count, 2))).clip(4, 400)
        corners = rng.random((count, 2)) * (np.array([WIDTH, HEIGHT]) - sides)
        return np.concatenate([corners, sides], axis=1)

    image, label = np.sort(rng.integers(images, size=truths)), rng.integers(classes, size=truths)
    boxes, crowd = anywhere(truths).round(2), rng.random(truths) < 0.01
    keys = ("id", "image_id", "category_id", "bbox", "iscrowd")
    columns = (range(1, truths + 1), image.tolist(), label.tolist(), boxes.tolist(), crowd.tolist())
    truth = {
        "images": [{"id": key, "width": WIDTH, "height": HEIGHT} for key in range(images)],
        "categories": [{"id": key, "name": f"class {key}"} for key in range(classes)],
        "annotations": [dict(zip(keys, row, strict=True)) for row in zip(*columns, strict=True)],
    }

    owner = np.repeat(np.arange(images), per_image)
    first, last = (np.searchsorted(image, owner, side) for side in ("left", "right"))
    near = (rng.random(len(owner)) < 0.6) & (last > first)
    row = (first + rng.random(len(owner)) * (last - first)).astype(int).clip(max=truths - 1)
    moved = boxes[row] + rng.normal(0, 0.1, (len(owner), 4)) * np.tile(boxes[row, 2:], 2)
    found = np.where(near[:, None], moved, anywhere(len(owner)))
    found[:, 2:] = found[:, :2] + found[:, 2:].clip(min=1)  # corners
    same = near & (rng.random(len(owner)) < 0.8)
    labels = np.where(same, label[row], rng.integers(classes, size=len(owner)))
    scores = -np.sort(-rng.random((images, per_image)), axis=1)
    by_image = zip(
        torch.from_numpy(found).float().split(per_image),
        torch.from_numpy(scores).float(),
        torch.from_numpy(labels).split(per_image),
        strict=True,
    )
    return Drawn(truth, [{"boxes": b, "scores": s, "labels": n} for b, s, n in by_image])


def columns_of(drawn: Drawn) -> Found:
    ids = np.arange(len(drawn.truth["categories"]))
    return Found.concatenate(
        Found.on_image(image, detection, ids) for image, detection in enumerate(drawn.detections)
    )


def records_of(found: Found) -> list[dict[str, Any]]:
    columns = (found.image_ids, found.category_ids, found.boxes, found.scores)
    keys = ("image_id", "category_id", "bbox", "score")
    rows = zip(*(column.tolist() for column in columns), strict=True)
    return [dict(zip(keys, row, strict=True)) for row in rows]


# Measuring --------------------------------------------------------------------------------------


def measured(rounds: int, quick: bool) -> Result:
    known = facts(on_cpu(quick))
    drawn = draw(50, 360, 100) if quick else draw(5000, 36_000, 100)
    count = f"{len(drawn.detections):,} images"
    works = [
        work(
            f"a model's tensors, {count}",
            lambda evaluator: evaluate_detections(
                drawn.truth, columns_of(drawn), evaluator=evaluator
            ),
            sum(len(each["scores"]) for each in drawn.detections),
            rounds,
        )
    ]
    records = records_of(columns_of(drawn))
    works.append(scored_records(f"records, {count}", drawn.truth, records, rounds))
    for each in works:
        each["goal"] = GOAL
    works += (scored_records(f"records, {name}", *pair, rounds) for name, *pair in published())
    tools = {
        name: evaluate_detections(drawn.truth, [], evaluator=name)["tool"] for name in EVALUATORS
    }
    return {"facts": known, "tools": tools, "works": works}


def published() -> Iterator[tuple[str, dict[str, Any], list[dict[str, Any]]]]:
    """Name, ground truth and detections of the pairs among the data sets of FOCALDET_DATA."""
    folder = Path(os.environ.get("FOCALDET_DATA", "no such folder"), "eval_pairs")
    for pair in sorted(folder.glob("*")):
        yield pair.name, *(json.loads((pair / f).read_text()) for f in ("gt.json", "dt.json"))


def scored_records(
    name: str, truth: dict[str, Any], records: list[dict[str, Any]], rounds: int
) -> dict[str, Any]:
    return work(
        name,
        lambda evaluator: evaluate_detections(truth, records, evaluator=evaluator),
        len(records),
        rounds,
    )


def work(name: str, score: Callable[[str], Scores], detections: int, rounds: int) -> dict[str, Any]:
    """Seconds of each evaluator, in turns, and its largest difference from pycocotools."""
    seconds: dict[str, list[float]] = {evaluator: [] for evaluator in EVALUATORS}
    for _ in range(rounds):
        scores = {}
        for evaluator in EVALUATORS:
            gc.collect()
            start = time.perf_counter()
            scores[evaluator] = score(evaluator)
            seconds[evaluator].append(float(f"{time.perf_counter() - start:.5g}"))
            print(f"{name}, {evaluator}: {duration(seconds[evaluator][-1])}", flush=True)
    differences = {e: difference(scores[e], scores[USUAL]) for e in EVALUATORS}
    return {"work": name, "detections": detections, "seconds": seconds, "difference": differences}


def difference(mine: Scores, theirs: Scores) -> float:
    """The largest of any number of the two, which have the same names."""
    pairs = [
        (mine[part][name], theirs[part][name])
        for part in ("stats", "per_class_AP")
        for name in mine[part].keys() | theirs[part].keys()
    ]
    return max(abs(a - b) for a, b in pairs)


def others(result: Result) -> Iterator[str]:
    """Whose numbers are other than pycocotools', and where."""
    for each in result["works"]:
        for evaluator, apart in each["difference"].items():
            if not apart <= TOLERANCE:
                yield f"{each['work']}: {evaluator} differs from pycocotools by {apart:.1g}"


# Reporting --------------------------------------------------------------------------------------


def table(result: Result) -> str:
    known = result["facts"]
    quick = " Quick: the figures mean nothing." if known["quick"] else ""
    lines = [
        f"{known['cpu']}, {known['cores']} cores; {', '.join(result['tools'].values())}.{quick}",
        "",
        "| scored | detections | pycocotools | ultrafast | ratio | goal | numbers |",
        "|---|---:|---:|---:|---:|---:|---|",
    ]
    for each in result["works"]:
        usual, fast = (each["seconds"][name] for name in (USUAL, FAST))
        ratios = [a / b for a, b in zip(usual, fast, strict=True)]
        apart = each["difference"][FAST]
        cells = [
            each["work"],
            f"{each['detections']:,}",
            *(duration(spread(times).median) for times in (usual, fast)),
            f"{digits(spread(ratios).median)}x",
            f"≤ {each['goal']:g} s" if "goal" in each else "",
            f"differ by {apart:.1g}" if apart else "equal",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
