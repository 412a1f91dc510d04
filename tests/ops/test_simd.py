"""FOCALDET_SIMD: every level of vector instructions gives the same bits."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from focaldet import _C

LEVELS = ["scalar", "avx2", "avx512"]
HERE = LEVELS[: LEVELS.index(_C.simd_level) + 1]  # what this processor, or FOCALDET_SIMD, allows


def run(level: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "FOCALDET_SIMD": level}
    command = [sys.executable, *arguments]
    # Not in the root: there, after a plain install, lies a focaldet without its extension.
    folder = Path(__file__).parent
    return subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True)


@pytest.mark.skipif(len(HERE) == 1, reason="this processor has one level only")
def test_every_level_gives_the_same_bits() -> None:
    hashes = {}
    for level in HERE:
        done = run(level, Path(__file__).with_name("simd_hashes.py"))
        assert done.returncode == 0, done.stderr
        used, *lines = done.stdout.splitlines()
        assert used == level
        hashes[level] = dict(line.split("\t") for line in lines)
    assert (
        len(hashes["scalar"]) == 3 * 6 * 3 + 2 * 2 * 2 + 3 + 4 + 2 * 4 + 2 * 4
    )  # every case of every operator
    for level in HERE[1:]:
        pairs = hashes[level].items() ^ hashes["scalar"].items()
        assert not pairs, f"{level} differs from scalar: {sorted({name for name, _ in pairs})}"


def test_an_unknown_level_is_refused_at_import() -> None:
    done = run("avx1024", "-c", "import focaldet")
    assert done.returncode != 0
    last = done.stderr.strip().splitlines()[-1]
    assert "FOCALDET_SIMD=avx1024: expected scalar, avx2 or avx512" in last
