"""benchmarks.bars.recipes: its cases, with the packages that are installed, and its table."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from pages.marked import write_pages

pytestmark = pytest.mark.usefixtures("benchmarks")


def part(name: str) -> ModuleType:
    return importlib.import_module(f"benchmarks.{name}")


def result() -> dict[str, Any]:
    packages = part("bars.recipes_cases").PACKAGES
    rows = [
        {"op": op, "case": op, "provider": name, "moved": None, "note": "", "seconds": seconds}
        for op, (package, _) in packages.items()
        for name, seconds in (("focaldet", [0.1, 0.1]), (package, [0.5, 0.7]))
    ]
    facts = {"cpu": "a CPU", "threads": 2, "dtype": "float32", "quick": False}
    facts["versions"] = {"torch": "2", "mmdet": "3"}
    return {"facts": facts, "kept": rows, "default": rows}


def test_every_target_has_its_case() -> None:
    """And what is timed gives the same as the package's function, where that is installed."""
    measure, setup = part("measure").measure, part("bars.command").on_cpu(quick=True)
    targets = {target.op: target for target in part("bars.recipes").TARGETS}
    for op, case in part("bars.recipes_cases").cases(setup):
        target = targets.pop(op)
        assert {target.over, target.under} == set(case.providers)
        for row in measure(op, case, setup, list(case.providers), rounds=2):
            assert len(row.seconds) == 2 or "is not installed" in row.note, row
    assert not targets


def test_the_table() -> None:
    text = part("bars.recipes").table(result())
    assert text.startswith("a CPU, 2 threads, float32; torch 2, fvcore not installed, mmdet 3, ")
    loss = next(line for line in text.splitlines() if "`FocalLoss`" in line)
    assert loss.startswith("| mmdet | ") and loss.count("6.00x (600 ms / 100 ms)") == 2
    assert all(line.count("|") == 5 for line in text.splitlines()[2:])


def test_the_table_among_the_examples(tmp_path: Path) -> None:
    write_pages(tmp_path, part("tables").PAGES)
    page, results = tmp_path / "examples" / "README.md", tmp_path / "results" / "recipes"
    results.mkdir(parents=True)
    arguments = ["--root", str(tmp_path), "--results", str(results.parent)]
    main = part("tables").main
    assert main(arguments) == 0 and "Not measured yet." in page.read_text()
    (results / "cpu.json").write_text(json.dumps(result()))
    assert main([*arguments, "--check"]) == 1
    assert main(arguments) == 0 and "| mmdet | " in page.read_text()
    assert "mmdet" not in (tmp_path / "README.md").read_text()
    assert main([*arguments, "--check"]) == 0


@pytest.mark.slow
def test_the_command_runs(quick_bars: Callable[[str], str]) -> None:
    for package in ("fvcore", "mmcv._ext", "mmdet", "ultralytics", "transformers"):
        pytest.importorskip(package, reason=f"{package} is not installed")
    table = quick_bars("recipes").rpartition("|---|")[2].splitlines()[1:]
    assert len(table) == len(part("bars.recipes").TARGETS)
    assert all(line.rstrip("| ").endswith(")") for line in table)
