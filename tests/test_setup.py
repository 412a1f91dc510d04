"""setup.py says in one line what keeps it from building."""

import os
import subprocess
import sys
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.skipif(not (ROOT / "setup.py").exists(), reason="no source folder")


def setup(*arguments: str, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "setup.py", *arguments],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize(
    "environment,line",
    [
        ({"FOCALDET_CUDA": "yes"}, "focaldet: FOCALDET_CUDA=yes: expected 1"),
        (
            {"FOCALDET_CUDA": "0", "CXX": "/no/such/c++"},
            "focaldet: no C++ compiler (/no/such/c++); install g++ or clang++, or set CXX",
        ),
    ],
    ids=["unknown wish", "no compiler"],
)
def test_one_line_instead_of_a_traceback(tmp_path, environment, line):
    folders = ["--build-temp", str(tmp_path), "--build-lib", str(tmp_path)]
    done = setup("build_ext", *folders, **environment)
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1].startswith(line)
    assert "Traceback" not in done.stderr


COMPILER = """#!/bin/sh
while [ $# -gt 0 ]; do if [ "$1" = -o ]; then echo new >"$2"; fi; shift; done
"""


def test_modules_of_an_earlier_build_are_not_packed(tmp_path):
    """setuptools packs all that lies in its folder of the build, and Python prefers long names."""
    compiler = tmp_path / "c++"
    compiler.write_text(COMPILER)
    compiler.chmod(0o755)
    package = tmp_path / "focaldet"
    package.mkdir()
    left = [f"_C_cuda{suffix}" for suffix in EXTENSION_SUFFIXES] + [f"_C{EXTENSION_SUFFIXES[0]}"]
    for name in (*left, "_C.cpython-399-other.so"):
        (package / name).write_text("old")
    folders = ["--build-temp", str(tmp_path / "temp"), "--build-lib", str(tmp_path)]
    done = setup(
        "build_ext",
        *folders,
        FOCALDET_CUDA="0",
        CXX=str(compiler),
        TORCH_DONT_CHECK_COMPILER_ABI="1",
    )
    assert done.returncode == 0, done.stderr
    now = {path.name: path.read_text().strip() for path in package.iterdir()}
    assert now.pop("_C.cpython-399-other.so") == "old"  # another Python's
    assert list(now.values()) == ["new"] and next(iter(now)).startswith("_C.")
