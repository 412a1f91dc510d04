"""exp, sigmoid and log1p of csrc/math/special.h, against double precision.

They are not visible from Python, so a small program (special_accuracy.cpp) includes the header.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import headers
import pytest

HERE = Path(__file__).resolve().parent

# Largest errors that the header claims, in units of the last place.
CLAIMED = {
    "exp": 1.0,
    "exp_minus_abs": 1.0,
    "sigmoid": 2.0,
    "log1p_unit": 1.5,
}
MONOTONE = ("exp", "sigmoid")


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return headers.program(HERE / "special_accuracy.cpp", tmp_path_factory.mktemp("special"))


def run(program: Path, stride: int) -> list[list[str]]:
    done = subprocess.run([program, str(stride)], capture_output=True, text=True, check=True)
    return [line.split() for line in done.stdout.splitlines()]


@pytest.mark.parametrize(
    "stride",
    # A prime, so that every binade is met at other significands; and every float there is.
    [pytest.param(251, id="sample"), pytest.param(1, id="every-float", marks=pytest.mark.slow)],
)
def test_accuracy_and_monotonicity(program: Path, stride: int) -> None:
    measured = {row[0]: row[1:] for row in run(program, stride) if len(row) == 4}
    assert set(measured) == set(CLAIMED)
    for name, (worst, at, falls) in measured.items():
        assert float(worst) <= CLAIMED[name], f"{name}: {worst} ulp at {float.fromhex(at)!r}"
        assert float(worst) >= 0.45, (
            f"{name}: {worst} ulp is better than rounding; measured at all?"
        )
        assert falls == "0" or name not in MONOTONE, (
            f"{name} falls {falls} times between neighbouring floats"
        )


def test_ends(program: Path) -> None:
    lines = {" ".join(row) for row in run(program, 1 << 24) if len(row) == 2}
    assert lines == {
        "exp(-inf)=0 sigmoid(-inf)=0",
        "exp(-105)=0 sigmoid(-105)=0",
        "exp(-0)=1 sigmoid(-0)=0.5",
        "exp(0)=1 sigmoid(0)=0.5",
        "exp(89)=inf sigmoid(89)=1",
        "exp(inf)=inf sigmoid(inf)=1",
        "exp(nan)=nan sigmoid(nan)=nan",
    }
