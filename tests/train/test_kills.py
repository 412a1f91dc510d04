"""Runs that are killed and resumed (kills.py) end with the bits of one that nobody disturbed."""

from __future__ import annotations

import subprocess
import sys

import kills
import pytest


@pytest.mark.slow
@pytest.mark.parametrize("case", ["1 process", "2 processes"])
def test_ten_kills(case: str) -> None:
    command = [sys.executable, kills.__file__, "--kills", "5", "--processes", case[0]]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    assert "5 kills of seed 0, each resumed to the same bits" in done.stdout
