"""Under torchrun itself, which keeps the store, starts the ranks anew, and forwards SIGTERM."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from processes import free_port

SCRIPT = """
import os, signal
import torch
from focaldet.distributed import join

signal.signal(signal.SIGTERM, lambda *_: None)  # the trainer notes it and goes on
attempt = os.environ["TORCHELASTIC_RESTART_COUNT"]
with join("cpu", 20) as ranks:
    for step in range(1, 4):
        ranks.at(step, "forward")
        if (attempt, ranks.rank, step) == ("0", 1, 3):
            os.kill(os.getpid(), signal.SIGKILL)
        total = ranks.sum(torch.full([1], ranks.rank + 1.0))
    ranks.first(lambda: print(f"attempt {attempt}: {total.item()}"))
"""


@pytest.mark.slow
def test_a_killed_rank_is_replaced(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*command, "--max-restarts", "1", str(script)],
        capture_output=True,
        text=True,
        timeout=120,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert [line for line in done.stdout.splitlines() if "attempt" in line] == ["attempt 1: 3.0"]
    assert "UserError: rank 1 is gone in step 3: killed or frozen" in done.stderr


@pytest.mark.slow
def test_a_killed_rank_is_replaced_on_two_machines(tmp_path: Path) -> None:
    """Each has a torchrun: the other one's starts its ranks again, too, and does not count that."""
    script = tmp_path / "script.py"
    mark = tmp_path / "killed"
    condition = '(attempt, ranks.rank, step) == ("0", 1, 3)'
    once = f"(ranks.rank, step) == (1, 3) and not os.path.exists({str(mark)!r})"
    assert condition in SCRIPT
    text = SCRIPT.replace(condition, once)
    script.write_text(text.replace("os.kill(os", f"open({str(mark)!r}, 'w'); os.kill(os"))
    command = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2"]
    place = ["--rdzv-backend", "c10d", "--rdzv-endpoint", f"127.0.0.1:{free_port()}"]
    machines = [
        subprocess.Popen(
            [*command, *place, "--rdzv-id", "run", "--max-restarts", "1", str(script)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"},
        )
        for _ in range(2)
    ]
    try:
        outputs = [machine.communicate(timeout=120)[0] for machine in machines]
    finally:
        for machine in machines:
            machine.kill()
    assert [machine.returncode for machine in machines] == [0, 0], "\n---\n".join(outputs)
    assert mark.exists() and "".join(outputs).count(": 3.0") == 1, outputs
