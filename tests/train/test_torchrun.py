"""`torchrun ... -m focaldet train`, of which a process is killed: it starts again and goes on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from tiny_runs import without_clocks

from focaldet.checkpoint import LAST, load_checkpoint
from focaldet.data import generate_scenes


def start(data: Path, out: Path) -> subprocess.Popen[str]:
    """Two processes, for twelve steps."""
    words = "--standalone --nproc-per-node 2 --max-restarts 1 -m focaldet train --device cpu"
    options = "--size 64 --epochs 3 --batch-size 4 --save-every 2 --workers 0 --ema 0.9"
    files = f"--train {data}/instances.json --val {data}/instances.json --images {data}/images"
    command = [sys.executable, "-m", "torch.distributed.run", *f"{words} {options} {files}".split()]
    return subprocess.Popen(
        [*command, "--out", str(out)],
        cwd=out.parent,  # not where ./focaldet may be unbuilt
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.slow
def test_a_killed_process_is_replaced_and_the_run_ends_the_same(tmp_path: Path) -> None:
    generate_scenes(tmp_path / "set", images=14, seed=1, size=64, objects=(2, 4))
    undisturbed = start(tmp_path / "set", tmp_path / "whole")
    _, errors = undisturbed.communicate(timeout=300)
    assert undisturbed.returncode == 0, errors

    run = start(tmp_path / "set", tmp_path / "cut")
    metrics = tmp_path / "cut" / "metrics.jsonl"
    end = time.monotonic() + 200
    while not metrics.exists() or metrics.read_text().count('"lr"') < 5:  # of the second epoch
        assert run.poll() is None and time.monotonic() < end, run.communicate()
        time.sleep(0.01)
    os.kill(children(run.pid)[1], signal.SIGKILL)
    output, errors = run.communicate(timeout=300)
    assert run.returncode == 0, errors
    assert output.count("epoch 3/3") == 1

    whole, cut = (load_checkpoint(tmp_path / name / LAST) for name in ("whole", "cut"))
    assert [name for name in whole[0] if not torch.equal(whole[0][name], cut[0][name])] == []
    assert whole[1] == cut[1], "with the scores"
    assert without_clocks(tmp_path / "whole") == without_clocks(tmp_path / "cut")
