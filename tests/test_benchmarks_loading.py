"""benchmarks.bars.loading: its table, and the command itself."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest

pytestmark = pytest.mark.usefixtures("benchmarks")


def loading() -> ModuleType:
    return importlib.import_module("benchmarks.bars.loading")


def result() -> dict[str, Any]:
    return {
        "facts": {"cpu": "a CPU", "threads": 2, "versions": {"torch": "2"}, "quick": False},
        "memory": {"steps": 2000, "growth": 7 * 1024},
        "start": {"images": 30, "boxes": 2000, "bytes": 71e6, "seconds": [2.0, 9.0, 1.0]},
        "rates": {
            "decoded": {"0": [10.0, 30.0, 20.0], "2": [50.0]},
            "cached": {"0": [400.0], "2": [800.0]},
        },
    }


def test_the_table() -> None:
    text = loading().table(result())
    assert text.startswith("a CPU, 2 threads; torch 2.\n")
    assert "| decoded each time | 20.0 | 50.0 |\n| from the cache | 400 | 800 |" in text
    assert "2,000 boxes on 30 images, a JSON file of 71 MB, are ready in 2.00 s (bar: 5 s)" in text
    assert "grows by 7 KB in 2,000 steps (bar: 1024 KB)" in text


@pytest.mark.slow
def test_the_command_runs(quick_bars: Callable[[str], str]) -> None:
    assert "| from the cache | " in quick_bars("loading")
