"""benchmarks.bars.drop_in: its stages, its detectors, how results are compared, its table. What it
shares with benchmarks.bars.loss is tested there."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

pytest.importorskip("torchvision")
ROOT = Path(__file__).resolve().parent.parent
pytestmark = pytest.mark.usefixtures("benchmarks")


def part(name: str) -> ModuleType:
    return importlib.import_module(f"benchmarks.{name}")


def test_stages_are_timed() -> None:
    """And both give the same."""
    measure, setup = part("measure").measure, part("bars.command").on_cpu(quick=True)
    timed = set()
    for op, case in part("bars.drop_in_cases").cases(setup):
        rows = measure(op, case, setup, list(case.providers), rounds=2)
        assert [len(row.seconds) for row in rows] == [2, 2], rows
        timed |= {(op, row.provider) for row in rows}
    targets = part("bars.drop_in").TARGETS
    stages = [t for t in targets if t.op in dict(timed)]
    assert len(stages) == 2 and all((t.op, t.under) in timed for t in stages)


def test_the_loss_stage_is_the_models_own() -> None:
    """torchvision's stage gives the losses of the whole forward, whose convolutions are left out:
    a rearrangement of the maps that was wrong would show."""
    setup = part("bars.command").on_cpu(quick=True)
    cases = part("bars.drop_in_cases")
    x = cases.inputs(setup, 2)
    classification, box_regression, *_ = cases.losses("torchvision", x)()
    from focaldet import ops

    truth = part("inputs").ground_truth(setup, 2, cases.CLASSES)
    settings = {"normalizer": "image", "box_loss": "l1"}
    want = ops.retinanet_loss(x.cls_logits, x.box_deltas, setup.anchors, *truth, **settings)
    torch.testing.assert_close(classification, want[0], rtol=1e-5, atol=0)
    torch.testing.assert_close(box_regression, want[1], rtol=1e-5, atol=0)


def test_detectors_have_something_to_find() -> None:
    models = part("bars.drop_in_models")
    setup = part("bars.command").on_cpu(quick=True)
    detector = models.detectors(quick=True)["SSD"]
    images, targets = models.pictures(setup, 2)
    model = models.model_of(detector, setup, images)
    found = models.inference(model, images)()
    assert all(len(one["scores"]) for one in found)
    step = models.training_step(model, images, targets)
    first = step()
    assert first == step() and first["gradient"] > 0  # every step does the same


def test_other_results_are_named() -> None:
    disagreements = part("bars.drop_in_whole").disagreements
    losses = {"classification": 1.0, "gradient": 5.0}
    results = {
        "torchvision": losses,
        "focaldet": losses | {"classification": 1.00002},
        "convolutions": losses | {"classification": 1.00002, "gradient": 5.01},
    }
    expected = [("focaldet", "classification 1.00002 instead of 1")]
    assert list(disagreements("training", "RetinaNet", results)) == expected
    results["convolutions"]["gradient"] = float("nan")
    assert dict(disagreements("training", "FCOS", results)).keys() == {"focaldet", "convolutions"}

    one = {"boxes": torch.rand(3, 4), "scores": torch.rand(3), "labels": torch.arange(3)}
    found = {"torchvision": [one], "focaldet": [one | {"scores": one["scores"] + 0.1}]}
    assert [name for name, _ in disagreements("inference", "SSD", found)] == ["focaldet"]
    nothing = [{name: rows[:0] for name, rows in one.items()}]
    found = {"torchvision": nothing, "focaldet": nothing}
    assert "nothing to compare" in dict(disagreements("inference", "SSD", found))["focaldet"]


def result() -> dict[str, Any]:
    """3 s, of which a stage takes 0.5 s, against 2 s."""
    drop_in = part("bars.drop_in")
    ops = dict.fromkeys([*(t.op for t in drop_in.TARGETS), "inference, SSD", "training, SSD"])
    times = {"torchvision": 3.0, "focaldet": 2.0, "convolutions": 1.0}
    rows = [
        {"op": op, "case": f"Some detector, {op.partition(',')[0]}", "provider": provider}
        | {"moved": None, "sizes": {"B": 2, "height": 8, "width": 9}}
        | {"seconds": [0.5 if op in ("loss", "post-process") else seconds] * 2}
        for op in ops
        for provider, seconds in times.items()
    ]
    facts = {"cpu": "a CPU", "threads": 1, "simd": "avx2", "dtype": "float32", "torch": "2"}
    facts |= {"torchvision": "1", "csrc_sha256": "0123456789abcdef", "quick": False}
    return {"facts": facts, "kept": rows, "default": rows, "replaced": {"SSD": ["nms", "a_b"]}}


def test_the_table() -> None:
    text = part("bars.drop_in").table(result())
    whole = "| RetinaNet R50, inference, 1 image | torchvision / accelerated | ≥ 1.05x |  |  | "
    assert f"{whole}1.50x (3.00 s / 2.00 s) |" in text
    assert (
        "accelerated with `convolutions=True` | ≥ 1.05x |  |  | 3.00x (3.00 s / 1.00 s) |" in text
    )
    ceiling = "ceiling: torchvision / (torchvision - stage) |  |  |  | 1.20x (3.00 s, stage 500 ms)"
    assert text.count(ceiling) == 2
    last = text.splitlines()[-1]
    gains = "1.50x (3.00 s / 2.00 s, 2 images) | 1.50x (3.00 s / 2.00 s, 2 images) |"
    assert last == f"| Some detector, 8 x 9 | nms, `a_b` | {gains}"


def test_missing_times_leave_cells_empty() -> None:
    drop_in, broken = part("bars.drop_in"), result()
    for row in broken["default"]:
        row |= {"seconds": [], "note": "disagrees"}
    assert "| nms, `a_b` |  |  |" in drop_in.table(broken)
    assert any(line.endswith("disagrees") for line in part("bars").untimed(broken))


@pytest.mark.slow
def test_the_command_runs(quick_bars: Callable[[str], str]) -> None:
    printed = quick_bars("drop_in")
    table = printed.rpartition("|---|")[2].splitlines()[1:]
    assert len(table) == 4 and all(line.count("x (") == 2 for line in table)
