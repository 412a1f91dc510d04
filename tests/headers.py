"""Programs around csrc/math, whose functions are not visible from Python."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from focaldet import _C

CSRC = Path(__file__).resolve().parents[1] / "csrc"
# setup.py's, since what the compiler may do to the arithmetic is half of what is tested.
FLAGS = "-O3 -std=c++17 -ffp-contract=off -fno-math-errno -fno-trapping-math -pthread".split()


def program(source: Path, folder: Path) -> Path:
    """Compiles source into folder; skips the test where there is no compiler or no csrc."""
    compiler = os.environ.get("CXX") or shutil.which("c++")
    if compiler is None or shutil.which(compiler) is None:
        pytest.skip("no C++ compiler")
    if not CSRC.is_dir():
        pytest.skip("the C++ sources are not beside the tests")
    path = folder / source.stem
    simd = [] if _C.simd_level == "scalar" else ["-mavx2", "-mfma"]
    build = [compiler, *FLAGS, *simd, f"-I{CSRC}", str(source), "-o", str(path)]
    done = subprocess.run(build, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return path
