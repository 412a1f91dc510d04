"""`python -m benchmarks.bars.checking`: how fast `focaldet data check` goes through annotations.

All checks that read no image, from the JSON files and from the tables alone, of many images with
few boxes and of few with many; with the report, which describes and suggests anchors. All data are
generated. Writes benchmarks/results/checking/cpu.json, which `benchmarks.tables` renders into
docs/guides/data.md. `--quick` takes little data, to see that all runs, and writes nothing.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from focaldet import AnchorGrid
from focaldet.check import CHECKS, DataSet, Detector, Report
from focaldet.data import Resize
from focaldet.data.folder import coco_source

from .. import bars
from ..facts import facts
from ..report import digits, duration, in_threads, version
from . import Result
from .command import on_cpu

WORKS = {
    "200,000 boxes on 30,000 images": (30_000, 200_000),
    "1,000 on each of 100": (100, 100_000),
}
BAR = 100_000  # annotations a second: the checks
SIDE, CLASSES = 640, 80


def main(argv: Sequence[str] | None = None) -> int:
    return bars.main("checking", __doc__, measured, table, argv)


def measured(rounds: int, quick: bool) -> Result:
    result: Result = {"facts": facts(on_cpu(quick)), "works": []}
    del result["facts"]["heap"]
    detector = Detector(Resize(320, 320), AnchorGrid.torchvision([16, 32, 64, 128, 256]))
    for work, (images, boxes) in WORKS.items():
        images, boxes = (images // 50, boxes // 50) if quick else (images, boxes)
        with tempfile.TemporaryDirectory() as name:
            file = Path(name, "instances_train.json")
            file.write_text(json.dumps(content(images, boxes)))
            rows = [seconds(file, detector) for _ in range(rounds)]
        parts = {part: [row[part] for row in rows] for part in rows[0]}
        result["works"].append({"work": work, "boxes": boxes, "seconds": parts})
        print(work, {part: duration(min(times)) for part, times in parts.items()}, flush=True)
    return result


def content(images: int, boxes: int) -> dict[str, Any]:
    """COCO's, with the outlines that its own files have."""
    rng = np.random.default_rng(0)
    sizes = rng.integers(8, 60, (boxes, 2))
    corners = rng.integers(0, SIDE - 60, (boxes, 2))
    outlines = rng.random((boxes, 24)).round(2).tolist()
    return {
        "images": [
            {"id": n + 1, "file_name": f"{n:012d}.jpg", "height": SIDE, "width": SIDE}
            for n in range(images)
        ],
        "annotations": [
            {
                "id": n + 1,
                "image_id": n % images + 1,
                "category_id": n % CLASSES + 1,
                "bbox": box,
                "area": box[2] * box[3],
                "iscrowd": 0,
                "segmentation": [outline],
            }
            for n, (box, outline) in enumerate(
                zip(np.concatenate([corners, sizes], 1).tolist(), outlines, strict=True)
            )
        ],
        "categories": [{"id": n + 1, "name": f"class {n}"} for n in range(CLASSES)],
    }


def seconds(file: Path, detector: Detector) -> dict[str, float]:
    """Of reading, of all checks without images, and of the report."""
    times = [time.perf_counter()]
    data = DataSet.read({"train": coco_source(file, file.parent)}, detector)
    times.append(time.perf_counter())
    checks = [check for check in CHECKS.values() if not check.reads_images]
    findings = {check.id: list(check.find(data)) for check in checks}
    times.append(time.perf_counter())
    Report(data, findings).text()
    times.append(time.perf_counter())
    parts = ("reading", "checks", "report")
    return {part: round(t, 4) for part, t in zip(parts, np.diff(times).tolist(), strict=True)}


def table(result: Result) -> str:
    known = result["facts"]
    quick = " Quick: the figures mean nothing." if known["quick"] else ""
    lines = [
        f"{known['cpu']}, {in_threads(known)}; torch {version(known, 'torch')}.{quick}",
        "",
        "| annotations | reading the JSON | checks | report | checked a second | bar |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for work in result["works"]:
        times = {part: statistics.median(found) for part, found in work["seconds"].items()}
        rate = digits(work["boxes"] / times["checks"] / 1000)
        cells = [work["work"], *map(duration, times.values()), f"{rate},000", f"≥ {BAR:,}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
