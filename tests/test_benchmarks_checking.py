"""benchmarks.bars.checking: its table, and the command itself."""

from __future__ import annotations

import importlib
from collections.abc import Callable

import pytest

pytestmark = pytest.mark.usefixtures("benchmarks")


def test_the_table() -> None:
    seconds = {"reading": [1.0, 9.0, 2.0], "checks": [0.5], "report": [0.1]}
    facts = {"cpu": "a CPU", "threads": 2, "versions": {"torch": "2"}, "quick": False}
    works = [{"work": "many", "boxes": 100_000, "seconds": seconds}]
    result = {"facts": facts, "works": works}
    text = importlib.import_module("benchmarks.bars.checking").table(result)
    assert text.startswith("a CPU, 2 threads; torch 2.\n")
    assert "| many | 2.00 s | 500 ms | 100 ms | 200,000 | ≥ 100,000 |" in text


@pytest.mark.slow
def test_the_command_runs(quick_bars: Callable[[str], str]) -> None:
    assert "| 200,000 boxes on 30,000 images | " in quick_bars("checking")
