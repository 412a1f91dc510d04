"""benchmarks.bars.loss: its cases, the ratios it makes of times, and its table in the README."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from pages.marked import write_pages

ROOT = Path(__file__).resolve().parent.parent
pytestmark = pytest.mark.usefixtures("benchmarks")


def part(name: str) -> ModuleType:
    return importlib.import_module(f"benchmarks.{name}")


def result() -> dict[str, Any]:
    """Every provider takes a second in both rounds, but those whose times a test looks at."""
    loss = part("bars.loss")

    def row(op: str, provider: str) -> dict[str, Any]:
        named = {"op": op, "case": f"case of {op}", "provider": provider, "moved": 8, "note": ""}
        return named | {"seconds": seconds.get((op, provider), [1.0, 1.0])}

    seconds = {
        ("focal", "torchvision"): [0.3, 0.1],
        ("focal", "focaldet"): [0.01, 0.01],
        ("step, K=3", "focaldet"): [0.0031, 0.0031],
    }
    timed = sorted({(t.op, name) for t in loss.TARGETS for name in (t.over, t.under)})
    rows = [row(*each) for each in timed]
    facts = {
        "cpu": "a CPU",
        "threads": 2,
        "simd": "avx2",
        "dtype": "float32",
        "torch": "2",
        "torchvision": None,
        "csrc_sha256": "0123456789abcdef",
        "quick": False,
    }
    memory = {mode: {"extra": 1.2e6, "gradient": 60e6} for mode in loss.MEMORY}
    return {"facts": facts, "kept": rows, "default": rows, "memory": memory}


def test_every_target_has_its_case() -> None:
    """And what is timed gives the same as its peers; not compiled, and without the model."""
    cases, measure = part("bars.loss_cases"), part("measure").measure
    setup, targets = part("bars.command").on_cpu(quick=True), part("bars.loss").TARGETS
    for op, case in cases.cases(setup):
        if op.startswith("step"):
            break
        wanted = [name for name in case.providers if name != "torch.compile"]
        rows = {row.provider: row for row in measure(op, case, setup, wanted, rounds=2)}
        for target in (t for t in targets if t.op == op):
            assert {target.over, target.under} <= {"torch.compile", *rows}
        for row in rows.values():
            assert len(row.seconds) == 2 or "is not installed" in row.note, row


@pytest.mark.parametrize("mode", ["save_gradient", "overwrite"])
def test_memory_is_measured(mode: str) -> None:
    command = [sys.executable, "-m", "benchmarks.bars.loss_memory", mode, "--quick"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    taken = json.loads(done.stdout)
    grid = part("bars.command").on_cpu(quick=True).anchors
    assert taken["gradient"] == 2 * len(grid) * (80 + 4) * 4
    assert 0 <= taken["extra"] < 100 * taken["gradient"]


def test_ratios_and_goals() -> None:
    text = part("bars.loss").table(result())
    lines = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ")]
    by_ratio = {tuple(line[:2]): [cell.strip() for cell in line[2:]] for line in lines}
    focal = "`sigmoid_focal_loss`, forward and backward, labels"
    assert by_ratio[focal, "torchvision / focaldet"] == [
        "≥ 12x",
        "≥ 20x",
        *["20.0x (200 ms / 10.0 ms)"] * 2,
    ]
    assert by_ratio[focal, "focaldet / copy into new memory"][-1].startswith("0.01x")
    assert by_ratio[focal, "focaldet / copy into new memory"][2] == ""  # the heap is not kept
    step = next(cells for (work, _), cells in by_ratio.items() if work.endswith(" 3 classes"))
    assert step[:3] == ["≤ 0.5 %", "≤ 0.3 %", "0.31 % (3.10 ms / 1.00 s)"]
    assert "0.020x (1.2 MB / 60 MB)" in text
    assert "a CPU, 2 threads" in text and "csrc `0123456789ab`." in text


def test_what_was_not_timed_is_named() -> None:
    bars, found = part("bars"), result()
    assert list(bars.untimed(found)) == []
    found["kept"][0] |= {"note": "disagrees with focaldet: shape", "seconds": []}
    named = list(bars.untimed(found))
    assert named[0].startswith("heap kept: case of ") and named[0].endswith("focaldet: shape")
    assert part("bars.loss").table(found)  # with an empty cell


def test_children_get_their_heap(monkeypatch: pytest.MonkeyPatch) -> None:
    bars, environments = part("bars"), []

    def recorded(*_: Any, env: dict[str, str], **options: Any) -> Any:
        environments.append(env)
        return subprocess.CompletedProcess([], 0, "out")

    monkeypatch.setenv("MALLOC_MMAP_THRESHOLD_", "1")
    monkeypatch.setattr(bars.subprocess, "run", recorded)
    assert bars.run("loss_cases", heap="kept") == "out"
    assert bars.run("loss_cases", heap="default") == "out"
    kept, default = environments
    settings = part("heap").HEAP_KEPT
    assert settings.items() <= kept.items()
    assert not settings.keys() & default.keys() and "PATH" in default


def test_the_table_in_its_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page, results = tmp_path / "docs" / "benchmarks.md", tmp_path / "results" / "loss"
    write_pages(tmp_path, part("tables").PAGES)
    arguments = ["--root", str(tmp_path), "--results", str(results.parent)]
    main = part("tables").main
    assert main(arguments) == 0
    assert "<!-- loss:begin -->\n\nNot measured yet.\n\n<!-- loss:end -->" in page.read_text()
    results.mkdir(parents=True)
    (results / "cpu.json").write_text(json.dumps(result()))
    assert main([*arguments, "--check"]) == 1
    assert main(arguments) == 0
    assert "torchvision / focaldet, overwriting" in page.read_text()
    assert main([*arguments, "--check"]) == 0
    (results / "cpu.json").write_text("{")
    with pytest.raises(SystemExit):
        main(arguments)
    assert "expected what `python -m benchmarks.bars.loss` writes" in capsys.readouterr().err


@pytest.mark.slow
def test_the_command_runs(compiled: None, quick_bars: Callable[[str], str]) -> None:
    printed = quick_bars("loss")
    table = printed.rpartition("|---|")[2].splitlines()[1:]
    cells = [line.strip("| ").split(" | ") for line in table]
    assert all(each[-1].endswith(")") for each in cells)
