"""Results of the paper's experiments: kept under a data set's name, and shown on their page."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from focaldet.experiments import EXPERIMENTS
from focaldet.experiments.cumulative import HARDEST, KINDS

pytest.importorskip("matplotlib", reason="matplotlib is not installed")


@pytest.fixture
def kept(benchmarks: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    module = importlib.import_module("benchmarks.experiments")
    monkeypatch.setattr(module, "PICTURES", tmp_path / "pictures")
    return module


def results(name: str, ap: float) -> dict[str, Any]:
    run = {"stats": {"AP": ap}, "minutes": 1.0, "device": "cpu", "threads": 1, "torch": "2.10"}
    rows = [
        {
            "label": row.label,
            "changes": row.changes,
            "paper": row.paper,
            "runs": [{"seed": 0} | run],
        }
        for row in EXPERIMENTS[name].rows
    ]
    data = {"images": {"train": 3, "val": 2}, "digest": "0"}
    about = {"experiment": name, "table": EXPERIMENTS[name].table, "recipe": {"name": "tiny"}}
    return about | {"data": data, "rows": rows}


def figure_4() -> dict[str, Any]:
    shares = {f"{fraction:g}": 2 * fraction for fraction in HARDEST}
    each = {"mean_loss": 1.0, "share_of_hardest": shares, "curve": [0.0, 1.0]}
    gammas = [{"gamma": 2.0} | dict.fromkeys(KINDS, each)]
    return {"images": 5, "anchors": dict.fromkeys(KINDS, 1234), "alpha": 0.25, "gammas": gammas}


def test_results_are_kept_drawn_and_shown(kept: ModuleType, tmp_path: Path) -> None:
    made = {"a": results("ce-alpha", 0.3), "b": results("fl-gamma", 0.4), "c": figure_4()}
    for name, content in made.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    folder, pictures = tmp_path / "results", tmp_path / "pictures"
    files = [str(tmp_path / f"{name}.json") for name in made]
    where = ["--results", str(folder / "experiments"), "--pictures", str(pictures)]
    assert kept.main(["cells", *files, *where]) == 0
    names = {"ce-alpha", "fl-gamma", "figure4"}
    assert {path.stem for path in (folder / "experiments" / "cells").iterdir()} == names
    assert {path.name for path in pictures.iterdir()} == {f"cells-{name}.svg" for name in names}

    text = kept.section(folder, "fl-gamma")
    assert text.startswith("cells, 3 train, 2 val images")
    assert "The best of 6 of focal loss and of 7 of balanced cross entropy" in text  # both files
    assert text.endswith("\n\n![fl-gamma on cells](../experiments/cells-fl-gamma.svg)")
    shares = kept.section(folder, "figure4")
    assert "1,234 foreground and 1,234 background anchors of 5 images" in shares
    assert "| 2 | 2.0% | 20.0% | 40.0% | 2.0% | 20.0% | 40.0% |" in shares
    assert kept.section(folder, "ohem") == "Not measured yet."
