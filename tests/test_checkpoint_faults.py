"""Injected faults (faults.py): whatever fails, a whole checkpoint loads, and no wrong one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import faults
import pytest


def run(count: int, seed: int) -> str:
    """In a process of its own, which forks: without the threads of this one."""
    command = [sys.executable, faults.__file__, "--faults", str(count), "--seed", str(seed)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_few_of_every_kind() -> None:
    printed = run(48, seed=2)
    # But for a full disk, which not all may have, and a kill that may come too late to be one.
    kinds = {kind.__name__ for kind in faults.FAULTS} - {"disk_full", "killed"}
    assert kinds <= {line.split(" ")[0] for line in printed.splitlines()}
    assert "48 faults of seed 2: a whole checkpoint each time, no wrong one" in printed


@pytest.mark.slow
def test_a_thousand() -> None:
    run(1000, seed=3)


def test_a_checkpoint_taken_for_another_is_reported(tmp_path: Path) -> None:
    """That the harness would see what it looks for."""
    folder = faults.Folder(tmp_path / "run", faults.Random(0))
    whole = (folder.path / faults.LAST).read_bytes()
    folder.renew()
    (folder.path / faults.LAST).write_bytes(whole)
    with pytest.raises(AssertionError, match="took generation 6, expected one of"):
        folder.check({folder.number: "kept"})
