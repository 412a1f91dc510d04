"""`python -m benchmarks.bars.loading`: what feeds the training, on the CPU and a local disk.

How long a data set of 200,000 boxes on 30,000 images takes from its file to the first planned
batch; how many images a second come out of `Batches`, decoded each time and from a cache, loaded by
this process and by two workers; and by how much a worker's memory grows over 2,000 steps. All data
are generated. Writes benchmarks/results/loading/cpu.json, which `benchmarks.tables` renders into
docs/guides/train.md. `--quick` takes little data, to see that all runs, and writes nothing.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from focaldet.data import Batches, CocoDataset, train_transform

from .. import ROOT, bars
from ..facts import facts
from ..report import digits, duration, in_threads, version
from . import Result
from .command import on_cpu
from .loading_worker import BATCH

LARGE = 30_000, 200_000  # images, boxes
STEPS = 2_000
PHOTOS = 256  # to decode
START_BAR = 5.0  # seconds
GROWTH_BAR = 2**20  # bytes
WORKERS = 0, 2


def main(argv: Sequence[str] | None = None) -> int:
    return bars.main("loading", __doc__, measured, table, argv)


def measured(rounds: int, quick: bool) -> Result:
    result: Result = {"facts": facts(on_cpu(quick))}
    del result["facts"]["heap"]
    images, boxes = (20, 100) if quick else LARGE
    with tempfile.TemporaryDirectory() as name:
        large = Path(name, "large.json"), Path(name, "large")
        write(*large, images, boxes, (16, 16), [16 * np.ones((16, 16, 3), np.uint8)])
        steps = min(STEPS, images // BATCH)
        result["memory"] = {"steps": steps, "growth": int(afresh("growth", large, steps))}
        print(f"a worker grew by {result['memory']['growth'] >> 10} KB", flush=True)
        result["start"] = {
            "images": images,
            "boxes": boxes,
            "bytes": large[0].stat().st_size,
            "seconds": [afresh("starting", large) for _ in range(rounds)],
        }
        print(f"start in {duration(min(result['start']['seconds']))}", flush=True)
        photos = Path(name, "photos.json"), Path(name, "photos")
        count, size = (10, (60, 80)) if quick else (PHOTOS, (480, 640))
        write(*photos, count, count, size, [photo(size, seed) for seed in range(count)])
        result["rates"] = rates(photos, Path(name, "cache"), rounds)
    return result


# Data -------------------------------------------------------------------------------------------


def write(
    annotations: Path,
    folder: Path,
    images: int,
    boxes: int,
    size: tuple[int, int],  # height, width
    pictures: list[np.ndarray],  # one for all images, or one for each
) -> None:
    """A data set in COCO's form, with the fields that COCO's own files have."""
    folder.mkdir()
    rng, (height, width) = np.random.default_rng(0), size
    names = [f"{number:012d}.jpg" for number in range(images)]
    for name, picture in zip(names, pictures, strict=False):
        Image.fromarray(picture).save(folder / name, quality=90)
    for name in names[len(pictures) :]:
        os.link(folder / names[0], folder / name)
    shape = {"height": height, "width": width}
    url = "http://images.cocodataset.org/train2017"
    content: dict[str, Any] = {
        "images": [
            {
                "id": number + 1,
                "file_name": name,
                "license": 1,
                "coco_url": f"{url}/{name}",
                **shape,
            }
            for number, name in enumerate(names)
        ],
        "annotations": [
            {
                "id": number + 1,
                "image_id": number % images + 1,
                "category_id": number % 80 + 1,
                "bbox": [x, y, 3.25, 4.5],
                "area": 14.625,
                "iscrowd": 0,
                "segmentation": [outline],
            }
            for number, ((x, y), outline) in enumerate(
                zip(
                    rng.integers(0, 10, (boxes, 2)).tolist(),
                    rng.random((boxes, 24)).round(2).tolist(),
                    strict=True,
                )
            )
        ],
        "categories": [{"id": number + 1, "name": f"class {number}"} for number in range(80)],
    }
    annotations.write_text(json.dumps(content))


def photo(size: tuple[int, int], seed: int) -> np.ndarray:
    """Smooth and a little noisy, so that it takes a JPEG decoder about as long as a photo."""
    rng, (height, width) = np.random.default_rng(seed), size
    rough = Image.fromarray(rng.integers(0, 256, (12, 16, 3), np.uint8))
    smooth = np.asarray(rough.resize((width, height), Image.Resampling.BICUBIC), np.int16)
    return (smooth + rng.integers(-8, 9, (height, width, 3))).clip(0, 255).astype(np.uint8)


# Measuring --------------------------------------------------------------------------------------


def afresh(what: str, data: tuple[Path, Path], *more: int) -> float:
    """A number that benchmarks.bars.loading_worker measures, in a process of its own, whose memory
    nobody has left holes in."""
    words = [what, *map(str, data), *map(str, more)]
    command = [sys.executable, "-m", "benchmarks.bars.loading_worker", *words]
    done = subprocess.run(command, cwd=ROOT, text=True, stdout=subprocess.PIPE, check=True)
    return float(done.stdout)


def rates(data: tuple[Path, Path], cache: Path, rounds: int) -> dict[str, dict[str, list[float]]]:
    """Images a second by way of reading and by number of workers, in turns."""
    found: dict[str, dict[str, list[float]]] = {"decoded": {}, "cached": {}}
    ways: list[tuple[str, str, Batches]] = []
    for name, folder in (("decoded", None), ("cached", cache)):
        dataset = CocoDataset(*data, transform=train_transform(320), cache=folder)
        for workers in WORKERS:
            batches = Batches(dataset, BATCH, shuffle=True, workers=workers)
            ways.append((name, str(workers), batches))
            one_epoch(batches, 0)  # starts the workers, fills the cache
    for epoch in range(1, rounds + 1):
        for name, workers, batches in ways:
            found[name].setdefault(workers, []).append(one_epoch(batches, epoch))
    return found


def one_epoch(batches: Batches, epoch: int) -> float:
    start = time.perf_counter()
    images = sum(len(images) for images, _ in batches.epoch(epoch))
    return round(images / (time.perf_counter() - start), 1)


# Reporting --------------------------------------------------------------------------------------


def table(result: Result) -> str:
    known, start, memory = result["facts"], result["start"], result["memory"]
    quick = " Quick: the figures mean nothing." if known["quick"] else ""
    rate = {
        (way, workers): digits(statistics.median(values))
        for way, by_workers in result["rates"].items()
        for workers, values in by_workers.items()
    }
    none, some = map(str, WORKERS)
    ready = duration(statistics.median(start["seconds"]))
    return "\n".join(
        [
            f"{known['cpu']}, {in_threads(known)}; torch {version(known, 'torch')}.{quick}",
            "",
            f"| images a second, JPEG of 640 x 480 at `--size 320` | `--workers {none}` | "
            f"`--workers {some}` |",
            "|---|---:|---:|",
            f"| decoded each time | {rate['decoded', none]} | {rate['decoded', some]} |",
            f"| from the cache | {rate['cached', none]} | {rate['cached', some]} |",
            "",
            f"{start['boxes']:,} boxes on {start['images']:,} images, a JSON file of "
            f"{start['bytes'] / 1e6:.0f} MB, are ready in {ready} (bar: {START_BAR:g} s). A "
            f"worker's memory grows by {memory['growth'] >> 10} KB in {memory['steps']:,} steps "
            f"(bar: {GROWTH_BAR >> 10} KB).",
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
