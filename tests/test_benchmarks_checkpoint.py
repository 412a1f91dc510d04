"""benchmarks.bars.checkpoint: its ways to save, its table, and the command itself."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

pytestmark = pytest.mark.usefixtures("benchmarks")


def part(name: str) -> ModuleType:
    return importlib.import_module(f"benchmarks.bars.{name}")


def result() -> dict[str, Any]:
    """Half a second for the limit, twice and once more for us, in 100 MB."""
    seconds = {"limit": [0.5, 0.5], "focaldet": [1.0, 0.5], "load": [0.25, 0.25]}
    cases = part("checkpoint_cases")
    said = {
        name: {"seconds": seconds.get(name, [1.0, 1.0]), "extra": 2e6}
        for name in [*cases.PROVIDERS, cases.LIMIT]
    }
    facts = {"cpu": "a CPU", "threads": 2, "versions": {"torch": "2"}, "quick": False}
    states = {name: {"bytes": 100e6, "providers": said} for name in cases.BACKBONES}
    return {"facts": facts, **states}


def test_the_table() -> None:
    text = part("checkpoint").table(result())
    assert "| resnet50, 100 MB | focaldet | 750 ms | 1.50x | ≤ 2x | 2 MB |" in text
    assert "| `torch.save`, no hash | 1.00 s | 2.00x |  | 2 MB |" in text
    assert "checkpoints every 37.5 s or less often take 2 % of a run at most" in text


def test_every_way_saves_the_same_tensors(tmp_path: Path) -> None:
    cases = part("checkpoint_cases")
    state = cases.State.of("resnet18", quick=True)
    for run in cases.PROVIDERS.values():
        run(state, tmp_path)
    weights, _, training, _ = cases.load_newest(tmp_path, training=True)
    theirs = torch.load(tmp_path / "torch.pt", weights_only=True)
    plain = cases.safetensors.torch.load_file(tmp_path / "tensors.safetensors")
    moments = {
        f"{number}.{name}": tensor
        for number, entry in training["optimizer"]["state"].items()
        for name, tensor in entry.items()
    }
    assert plain.keys() == weights.keys() | moments.keys()
    assert all(torch.equal(plain[name], tensor) for name, tensor in (weights | moments).items())
    assert theirs["model"].keys() == weights.keys()
    assert all(torch.equal(theirs["model"][name], tensor) for name, tensor in weights.items())
    assert len(theirs["optimizer"]["state"]) == len(training["optimizer"]["state"])

    cases.limit(tmp_path)()
    assert (tmp_path / "bytes").read_bytes() == (tmp_path / cases.LAST).read_bytes()


@pytest.mark.slow
def test_the_command_runs(quick_bars: Callable[[str], str]) -> None:
    assert quick_bars("checkpoint").count("| limit |") == 2
