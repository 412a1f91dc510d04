"""setup.py says in one line what keeps it from building."""

import os
import subprocess
import sys
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
