"""benchmarks.bars.evaluation: what it draws, how numbers are compared, its table, the command."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import pytest

pytestmark = pytest.mark.usefixtures("benchmarks")


def evaluation() -> ModuleType:
    return importlib.import_module("benchmarks.bars.evaluation")


def test_what_is_drawn_is_worth_scoring() -> None:
    drawn = evaluation().draw(images=20, truths=150, per_image=100)
    found = evaluation().columns_of(drawn)
    assert len(found) == 2000 and (found.boxes[:, 2:] > 0).all()
    assert all((np.diff(each["scores"]) <= 0).all() for each in drawn.detections)
    records = evaluation().records_of(found)
    scores = evaluation().evaluate_detections(drawn.truth, records)
    assert scores == evaluation().evaluate_detections(drawn.truth, found)
    stats = scores["stats"]
    assert 0.05 < stats["AP"] < stats["AP50"] < 0.9 and min(stats.values()) >= 0


def result(apart: float = 0.0) -> dict[str, Any]:
    facts = {"cpu": "a CPU", "cores": 2, "quick": False}
    works = [
        {
            "work": "records",
            "detections": 1234,
            "seconds": {"pycocotools": [30.0, 50.0, 40.0], "ultrafast": [1.0, 1.0, 2.0]},
            "difference": {"pycocotools": 0.0, "ultrafast": apart},
            "goal": 2.0,
        }
    ]
    tools = {"pycocotools": "pycocotools 2", "ultrafast": "ultrafast-pycocotools 0.1"}
    return {"facts": facts, "tools": tools, "works": works}


def test_the_table() -> None:
    text = evaluation().table(result())
    assert text.startswith("a CPU, 2 cores; pycocotools 2, ultrafast-pycocotools 0.1.\n")
    assert text.endswith("\n| records | 1,234 | 40.0 s | 1.00 s | 30.0x | ≤ 2 s | equal |")
    assert evaluation().table(result(1e-12)).endswith("| differ by 1e-12 |")


def test_other_numbers_are_noted() -> None:
    scores = [{"stats": {"AP": 0.5}, "per_class_AP": {"1": p}} for p in (0.5, 0.25)]
    assert evaluation().difference(*scores) == 0.25
    assert list(evaluation().others(result(1e-12))) == []
    for apart in (0.25, float("nan")):
        assert next(evaluation().others(result(apart))).startswith("records: ultrafast differs")


@pytest.mark.slow
def test_the_command_runs(quick_bars: Callable[[str], str]) -> None:
    pytest.importorskip("ultrafast_pycocotools", reason="ultrafast-pycocotools is not installed")
    assert quick_bars("evaluation").count("| equal |") >= 2
