"""benchmarks.bars.suppression: its cases, and its table. What it shares with benchmarks.bars.loss
is tested there."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parent.parent
pytestmark = pytest.mark.usefixtures("benchmarks")


def part(name: str) -> ModuleType:
    return importlib.import_module(f"benchmarks.{name}")


def test_every_target_has_its_case() -> None:
    """And what is timed gives the same as its peers."""
    measure, setup = part("measure").measure, part("bars.command").on_cpu(quick=True)
    targets = part("bars.suppression").TARGETS
    for op, case in part("bars.suppression_cases").cases(setup):
        rows = measure(op, case, setup, list(case.providers), rounds=2)
        wanted = [t for t in targets if t.op == op]
        assert wanted or op == "nms, a million"  # which has no peer
        for target in wanted:
            assert {target.over, target.under} <= {row.provider for row in rows}
        for row in rows:
            assert len(row.seconds) == 2 or "is not installed" in row.note, row
    assert {t.op for t in targets} <= {op for op, _ in part("bars.suppression_cases").cases(setup)}


def test_ratios_that_have_no_bar() -> None:
    suppression = part("bars.suppression")
    timed = sorted({(t.op, name) for t in suppression.TARGETS for name in (t.over, t.under)})
    timed.append(("nms, a million", "focaldet"))
    rows = [
        {"op": op, "case": op, "provider": name, "moved": None, "note": "", "seconds": [0.5, 0.5]}
        for op, name in timed
    ]
    facts = {"cpu": "a CPU", "threads": 1, "simd": "avx2", "dtype": "float32", "torch": "2"}
    facts |= {"torchvision": None, "csrc_sha256": "0123456789abcdef", "quick": False}
    memory = {"extra": 90_000_000, "inputs": 20_000_000}
    text = suppression.table({"facts": facts, "kept": rows, "default": rows, "memory": memory})
    few, limit, *_ = [line for line in text.splitlines() if "700 candidates" in line]
    assert few.endswith("| ≥ 15x | ≥ 40x | 1.00x (500 ms / 500 ms) | 1.00x (500 ms / 500 ms) |")
    assert "time | ≤ 3 s | ≤ 1 s | 500 ms | 500 ms |" in text
    assert text.endswith("≤ 200 MB |  |  | 90 MB / 20 MB |")
    assert " focaldet / `amax` of the logits |  |  | 1.00x " in limit


@pytest.mark.slow
def test_the_command_runs(quick_bars: Callable[[str], str]) -> None:
    printed = quick_bars("suppression")
    table = printed.rpartition("|---|")[2].splitlines()[1:]
    assert len(table) > 2 and all(line.rstrip("| ").endswith(")") for line in table[:-2])
