"""Under torchrun itself, which keeps the store, starts the ranks anew, and forwards SIGTERM."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

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
