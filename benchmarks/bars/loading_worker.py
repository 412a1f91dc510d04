"""What benchmarks.bars.loading measures in a process of its own: a number, printed."""

from __future__ import annotations

import multiprocessing
import sys
import time
from pathlib import Path

from focaldet.data import Batches, CocoDataset

BATCH = 8


def main(what: str, annotations: str, folder: str, *more: str) -> None:
    data = Path(annotations), Path(folder)
    print(starting(data) if what == "starting" else growth(data, int(more[0])))


def starting(data: tuple[Path, Path]) -> float:
    """Seconds until the first batch is planned."""
    start = time.perf_counter()
    Batches(CocoDataset(*data), BATCH, shuffle=True).order(0)
    return round(time.perf_counter() - start, 4)


def growth(data: tuple[Path, Path], steps: int) -> int:
    """Bytes by which the worker that grows most does, from step 20 on."""
    batches = Batches(CocoDataset(*data), BATCH, shuffle=True, workers=2)
    before: dict[int, int] = {}
    for step, _ in zip(range(steps), batches.epoch(0), strict=False):
        if step == min(20, steps // 2):
            before = {pid: own_memory(pid) for pid in children()}
    return max(own_memory(pid) - size for pid, size in before.items())


def children() -> list[int]:
    return [process.pid for process in multiprocessing.active_children() if process.pid]


def own_memory(pid: int) -> int:
    """Bytes of a process that it shares with no other."""
    fields = dict(
        line.split(":", 1)
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        if line.endswith("kB")
    )
    return 1024 * sum(int(fields[f"Private_{kind}"].split()[0]) for kind in ("Clean", "Dirty"))


if __name__ == "__main__":
    main(*sys.argv[1:])
