"""What a worker process takes for itself, where it shares the data set with the main process."""

from __future__ import annotations

import gc
import json
import multiprocessing
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from focaldet.data import Batches, CocoDataset
from focaldet.data.workers import Workers

IMAGES = 30_000
# As Python objects, ids, names and paths of so many images took 6.3 MB, which a worker copied page
# by page as it looked at them, 4.5 MB of them in the first 200 steps. What grows now is the
# allocator's heap, by 0.3 MB.
BOUND = 2**20


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> CocoDataset:
    """30,000 names of one tiny image, a box on each."""
    folder = tmp_path_factory.mktemp("many")
    names = [f"image_{number:06d}.png" for number in range(IMAGES)]
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(folder / names[0])
    for name in names[1:]:
        os.link(folder / names[0], folder / name)
    ids = range(10**6, 10**6 + IMAGES)
    content = {
        "images": [
            {"id": i, "file_name": name, "width": 4, "height": 4}
            for i, name in zip(ids, names, strict=True)
        ],
        "annotations": [
            {"id": i, "image_id": i, "category_id": 1, "bbox": [0, 0, 2, 2]} for i in ids
        ],
        "categories": [{"id": 1, "name": "one"}],
    }
    (folder / "instances.json").write_text(json.dumps(content))
    return CocoDataset(folder / "instances.json", folder)


def own_memory(pid: int) -> int:
    """Bytes that the process shares with no other."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return 1024 * sum(int(line.split()[1]) for line in lines if line.startswith("Private_"))


def in_its_own_process(*words: object, cwd: Path) -> list[int]:
    """What this file prints, run with these words: of all that a test run has loaded, workers copy
    what they, or the collector, look at."""
    command = [sys.executable, __file__, *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=cwd)
    assert done.returncode == 0, done.stderr
    growth: list[int] = json.loads(done.stdout)
    return growth


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="Linux only")
@pytest.mark.parametrize("steps", [200, pytest.param(2000, marks=pytest.mark.slow)])
def test_workers_do_not_grow(steps: int, many: CocoDataset) -> None:
    growth = in_its_own_process(many.image_folder, steps, cwd=many.image_folder)
    assert len(growth) == 2 and max(growth) < BOUND, growth


def of_steps(folder: Path, steps: int) -> list[int]:
    """Bytes by which each worker grows from step 20 on."""
    many = CocoDataset(folder / "instances.json", folder)
    batches, before = Batches(many, 8, shuffle=True, workers=2), dict[int, int]()
    for step, _ in zip(range(steps), batches.epoch(0), strict=False):
        if step == 20:
            workers = multiprocessing.active_children()
            before = {process.pid: own_memory(process.pid) for process in workers}
    return [own_memory(pid) - size for pid, size in before.items()]


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="Linux only")
def test_the_collector_copies_nothing(tmp_path: Path) -> None:
    (growth,) = in_its_own_process(cwd=tmp_path)
    assert growth < BOUND


def of_a_collection() -> list[int]:
    """Bytes by which a worker grows when Python's collector runs in it."""
    shared = [[] for _ in range(10**5)]  # 56 bytes each, with a mark of the collector's in each

    def collected(_: int) -> int:
        before = own_memory(os.getpid())
        gc.collect()
        return own_memory(os.getpid()) - before

    growth = Workers(collected, 1, str, 60).map([0])
    assert len(shared) == 10**5
    return list(growth)


if __name__ == "__main__":
    given = sys.argv[1:]
    print(json.dumps(of_steps(Path(given[0]), int(given[1])) if given else of_a_collection()))
