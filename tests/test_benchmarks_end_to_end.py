"""benchmarks.bars.end_to_end: how results are compared, its table, and the command itself."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent
pytestmark = pytest.mark.usefixtures("benchmarks")


def part(name: str) -> ModuleType:
    return importlib.import_module(f"benchmarks.{name}")


def found(shift: float = 0.0, change: float = 0.0) -> dict[str, Any]:
    """What a worker says of one image with two detections."""
    boxes = [[0.0, 0.0, 10.0, 10.0], [50.0 + shift, 50.0, 60.0 + shift, 60.0]]
    return {"found": [{"boxes": boxes, "scores": [0.9, 0.5 + change], "labels": [1.0, 2.0]}]}


def test_other_detections_are_noted() -> None:
    said = {"torchvision": found(), "focaldet": found(), "folded": found(change=0.01)}
    part("bars.end_to_end").compare("inference", said)
    assert "note" not in said["torchvision"] and "note" not in said["focaldet"]
    assert said["folded"]["note"].startswith("disagrees with torchvision: image 0: scores")


def test_what_bfloat16_changes() -> None:
    said = {"torchvision": {"note": "is not installed"}, "focaldet": found()}
    said["bfloat16"] = found(shift=2.0, change=0.03)
    part("bars.end_to_end").compare("inference", said)
    text = "2 of 2 found again at IoU 0.5, scores change by 0.03 at most"
    assert said["bfloat16"]["changes"] == text
    far = {"focaldet": found(), "bfloat16": found(shift=8.0), "torchvision": {"note": "no"}}
    part("bars.end_to_end").compare("inference", far)
    assert far["bfloat16"]["changes"].startswith("1 of 2 found again")


def test_other_losses_are_noted() -> None:
    said = {
        name: {"losses": [1.0, loss], "gradient": 3.0}
        for name, loss in {"torchvision": 0.5, "focaldet": 0.50001, "train": 0.501}.items()
    }
    part("bars.end_to_end").compare("training", said)
    assert "note" not in said["focaldet"]
    assert said["train"]["note"].endswith("box_regression 0.501 instead of 0.5")


def result() -> dict[str, Any]:
    """2 s for torchvision, 1 s for us; 600 GFLOP at 200 GFLOP/s alone, 500 of them fast."""
    end_to_end = part("bars.end_to_end")
    versions = {"torch": "2", "torchvision": None}
    facts = {"cpu": "a CPU", "threads": 2, "versions": versions, "quick": False}
    whole = {"facts": facts}
    for work, providers in end_to_end.PROVIDERS.items():
        said = {
            name: {
                "seconds": [1.0, 1.0],
                "peak": 10**9,
                "stages": {"transform": 0.25, "head": 0.75},
                "flops": [100_000_000_000, 500_000_000_000],
            }
            for name in [*providers, end_to_end.RATE]
        }
        said["torchvision"] |= {"seconds": [2.0, 2.0], "flops": [600_000_000_000, 0]}
        said[end_to_end.RATE] |= {"seconds": [0.5, 0.1], "flops": [20_000_000_000, 0]}
        said["bfloat16"]["changes"] = "nothing changes"
        size = {"images": 2, "height": 8, "width": 9, "classes": 3}
        whole[work] = {"backbone": "resnet18", **size, "providers": said}
    return whole


def test_the_table() -> None:
    text = part("bars.end_to_end").table(result())
    rows = {line.split(" | ")[0]: line for line in text.splitlines() if line.startswith("| ")}
    ready = rows["| `for_inference`: and Winograd's way"]
    # 100 GFLOP and a quarter of 500 at 200 GFLOP/s: 1.125 s.
    assert "| 2.00x | ≥ 1.15x | 1.78x | 1.00 s | 2.00 | 1.00 GB | 250 ms | 750 ms |" in ready
    assert rows["| torchvision"].startswith("| torchvision |  |  |  | 2.00 s | 1.00 |")
    assert "600 GFLOP of convolutions at 200 GFLOP/s" in text and "83 % of them" in text
    assert "1,800 GFLOP" in text  # training
    assert "In bfloat16 nothing changes." in text


def test_missing_times_are_named() -> None:
    end_to_end, broken = part("bars.end_to_end"), result()
    assert list(end_to_end.untimed(broken)) == []
    broken["training"]["providers"]["torchvision"] = {"note": "torchvision is not installed"}
    assert "not measured, torchvision is missing" in end_to_end.table(broken)
    expected = "training: torchvision torchvision is not installed"
    assert list(end_to_end.untimed(broken)) == [expected]


def test_flops_and_parts_of_a_call() -> None:
    worker = part("bars.end_to_end_worker")
    x = worker.inputs("inference", "resnet18", quick=True)
    x.model.eval()
    known = worker.looked_into(x.model, part("ops.model").inference(x.model, x))
    names = ["transform", "body", "FPN", "head", "post-process"]
    assert list(known["stages"]) == names and all(s > 0 for s in known["stages"].values())
    direct, saved = known["flops"]
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter, torch.no_grad():
        x.model(x.images)
    assert saved == 0 and direct == counter.get_total_flops()


def test_a_process_that_has_ended_is_noted() -> None:
    with part("bars.end_to_end").Worker("nonsense") as worker:
        assert worker.answer() == worker.turn() == {"note": "fails: see above"}
    said = {name: {"note": "fails: see above"} for name in ("torchvision", "focaldet", "folded")}
    part("bars.end_to_end").compare("inference", said)  # nobody to compare with


def test_bad_rounds_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        part("bars.end_to_end").main(["--rounds", "0"])
    assert stop.value.code == 2
    assert "--rounds: expected at least 1, got 0" in capsys.readouterr().err


@pytest.mark.slow
def test_the_command_runs(quick_bars: Callable[[str], str]) -> None:
    printed = quick_bars("end_to_end")
    assert printed.count("| bfloat16 |") == 2
