"""benchmarks.bars.training: its table, and the command itself."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest

pytestmark = pytest.mark.usefixtures("benchmarks")


def training() -> ModuleType:
    return importlib.import_module("benchmarks.bars.training")


def run_of(step: float, waited: float, saving: float) -> dict[str, Any]:
    return {"step": [step] * 3, "waited": [waited] * 3, "epoch": 9.0, "saving": saving}


def test_the_table() -> None:
    runs = {
        "one process": [run_of(2.0, 0.02, 1.0), run_of(4.0, 0.04, 1.0)],
        "two processes": [run_of(2.5, 0.05, 0.1), run_of(4.0, 0.08, 0.1)],
    }
    facts = {"cpu": "a CPU", "threads": 2, "versions": {"torch": "2"}, "quick": False}
    text = training().table({"facts": facts, "images": 304, "size": 320, "runs": runs})
    assert "| one process, 2 threads | 3.00 s | 2.67 | 1.00 % | 10.0 % |" in text
    assert "| two processes, 1 thread each, gloo | 3.25 s | 2.46 | 2.00 % | 1.10 % |" in text
    assert "| two by one | | 0.90x (bar: 0.9x) | bar: 3 % | bar: 2 % |" in text


@pytest.mark.slow
def test_the_command_runs(quick_bars: Callable[[str], str]) -> None:
    assert "| two processes, 1 thread each, gloo |" in quick_bars("training")
