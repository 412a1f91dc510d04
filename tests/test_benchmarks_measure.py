"""How benchmarks measures a case: who is timed, each way, what fails, and what is said of it."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch

CPU = torch.device("cpu")
pytestmark = pytest.mark.usefixtures("benchmarks")


def part(name: str) -> ModuleType:
    return importlib.import_module(f"benchmarks.{name}")


def measured(
    providers: dict[str, Any], rounds: int = 2, caches: tuple[str, ...] = ("warm",), **fields: Any
) -> dict[str, Any]:
    """Rows by provider; by way, too, where there are several."""
    setup = part("inputs").Setup(CPU, torch.float32, (8, 8), True)
    case = part("case").Case(
        "a case", fields.pop("inputs", lambda: None), providers, {"N": 3}, **fields
    )
    rows = part("measure").measure("op", case, setup, list(providers), rounds, caches)
    several = len(case.ways) * len(caches) > 1
    return {(r.provider, r.way, r.cache) if several else r.provider: r for r in rows}


def gives(value: float) -> Callable[[Any], Any]:
    return lambda _: lambda: (torch.tensor([1, 2]), torch.full((3,), value))


def raises(error: Exception) -> Callable[[Any], Any]:
    def run() -> None:
        raise error

    return lambda _: run


def moves(read: int, written: int) -> Callable[[Any, str], Any]:
    return lambda inputs, way: part("case").Work(read, written)


def test_only_providers_that_agree_are_timed() -> None:
    rows = measured(
        {"focaldet": gives(1.0), "reference": gives(1.0 + 1e-6), "torchvision": gives(1.1)},
        work=moves(8, 8),
    )
    assert rows["torchvision"].note.startswith("disagrees with reference: differs by up to 0.1")
    assert rows["torchvision"].seconds == [] and rows["torchvision"].limit == []
    assert [len(rows[n].seconds) for n in ("focaldet", "reference", "copy")] == [2, 2, 2]
    assert rows["focaldet"].limit == rows["copy"].seconds and rows["focaldet"].sizes == {"N": 3}

    missing = ModuleNotFoundError("No module named 'peer'", name="peer")
    rows = measured(
        {"focaldet": gives(float("nan")), "reference": gives(1.0), "mmcv": raises(missing)}
    )
    assert rows["focaldet"].note.startswith("disagrees with reference")
    assert rows["mmcv"].note == "peer is not installed"
    assert "x focaldet" not in part("report").block(list(rows.values()))


def test_without_a_reference_focaldet_is_right() -> None:
    rows = measured(
        {"torchvision": gives(2.0), "focaldet": gives(1.0), "reference": gives(1.0)},
        skip={"reference": "slow"},
    )
    assert rows["reference"].note == "left out: slow"
    assert rows["torchvision"].note.startswith("disagrees with focaldet")
    assert len(rows["focaldet"].seconds) == 2


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB"),
        RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 1 bytes."),
        RuntimeError("std::bad_alloc"),
    ],
)
def test_a_provider_out_of_memory_is_noted_and_the_others_go_on(error: Exception) -> None:
    rows = measured({"focaldet": gives(1.0), "reference": raises(error)})
    assert rows["reference"].note == "out of memory" and rows["reference"].seconds == []
    assert len(rows["focaldet"].seconds) == 2


def test_running_out_in_a_later_round_is_noted_too() -> None:
    left = [5]

    def run() -> tuple[torch.Tensor, ...]:
        left[0] -= 1
        if left[0] < 0:
            raise MemoryError
        return gives(1.0)(None)()

    rows = measured({"focaldet": gives(1.0), "torchvision": lambda _: run}, rounds=4)
    assert rows["torchvision"].note == "out of memory" and rows["torchvision"].seconds == []
    assert len(rows["focaldet"].seconds) == 4


def test_inputs_that_do_not_fit_are_noted() -> None:
    def too_large() -> torch.Tensor:
        raise MemoryError

    rows = measured({"focaldet": gives(1.0)}, inputs=too_large, work=moves(8, 8))
    assert list(rows) == ["focaldet"]
    assert rows["focaldet"].note == "out of memory for the inputs"
    assert "out of memory for the inputs" in part("report").block(list(rows.values()))


def test_a_bug_in_the_inputs_is_not_hidden() -> None:
    with pytest.raises(ZeroDivisionError):
        measured({"focaldet": gives(1.0)}, inputs=lambda: 1 // 0)


def test_other_failures_say_what() -> None:
    rows = measured({"focaldet": gives(1.0), "mmcv": raises(TypeError("no bfloat16\nat all"))})
    assert rows["mmcv"].note == "fails: TypeError: no bfloat16"


@pytest.mark.parametrize(("read", "written", "limit"), [(64, 0, "read"), (64, 64, "copy")])
def test_work_that_mostly_reads_is_held_against_a_read(read: int, written: int, limit: str) -> None:
    rows = measured({"focaldet": gives(1.0)}, work=moves(read, written))
    assert set(rows) == {"focaldet", limit}
    assert f"% of {limit}" in part("report").block(list(rows.values()))


def test_each_way_is_timed_and_a_backward_has_a_forward_of_its_own() -> None:
    case, x = part("case"), torch.ones(4, requires_grad=True)
    done: list[str] = []

    class Square(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
            done.append("forward")
            ctx.save_for_backward(x)
            return (x**2).sum()

        @staticmethod
        def backward(ctx: Any, grad: torch.Tensor) -> torch.Tensor:
            done.append("backward")
            (x,) = ctx.saved_tensors
            return 2 * grad * x

    run = case.Differentiable(lambda: (Square.apply(x),), (x,))
    total, gradient = run()
    assert float(total.detach()) == 4 and gradient.tolist() == [2, 2, 2, 2]
    done.clear()
    run.one_way("forward")()
    assert done == ["forward"]
    done.clear()
    part("clock").seconds_of(run.one_way("backward"), 2)
    assert done == ["forward", "backward"] * 2

    rows = measured({"focaldet": lambda _: run}, ways=case.WAYS, caches=("warm", "cold"))
    assert {key[1:] for key in rows} == {(w, c) for w in case.WAYS for c in ("warm", "cold")}
    assert all(len(row.seconds) == 2 for row in rows.values())
    text = part("report").block(list(rows.values()))
    assert "a case (N=3); backward, cold caches" in text


# The report -------------------------------------------------------------------------------------


def test_older_rows_load_and_percentages_are_of_the_same_round() -> None:
    report = part("report")
    old = {
        "op": "nms",
        "case": "nms",
        "provider": "focaldet",
        "moved": 8,
        "note": "",
        "seconds": [1],
    }
    row = report.Row(**old)
    assert (row.way, row.cache, row.limit, row.peak) == ("both", "warm", [], None)
    assert row.reached() == []
    row.seconds, row.limit, row.peak, row.operations = [2.0, 4.0], [1.0, 1.0], 1500, 6e9
    assert row.reached() == [0.5, 0.25]
    copy = report.Row("nms", "nms", "copy", 8, seconds=[1.0, 1.0])
    text = report.block([row, copy])
    assert "38 % of copy" in text and "peak 1.5 kB" in text and "2 GFLOP/s" in text
    assert "copy, 8 B" in text


def test_compiled_providers_agree() -> None:
    """With what they stand for; not compiled, which would take a while for each."""
    compiled, inputs = part("compiled"), part("inputs")
    setup = inputs.Setup(CPU, torch.float32, inputs.THUMBNAIL, True)
    reference = importlib.import_module("focaldet.reference")
    focal, softmax = part("ops.focal_loss"), part("ops.softmax_focal_loss")
    for x, ours, theirs in (
        (focal.inputs(setup, 1, False), reference.sigmoid_focal_loss, compiled.focal_from_labels),
        (focal.inputs(setup, 1, True), reference.sigmoid_focal_loss, compiled.focal_from_targets),
        (softmax.inputs(setup, 81), reference.softmax_focal_loss, compiled.softmax_focal),
    ):
        torch.testing.assert_close(theirs(*x), ours(*x, reduction="sum"), rtol=1e-4, atol=0)
    match = part("ops.match")
    for workload in (inputs.COCO_800, inputs.CROWD):
        x = match.inputs(setup, workload, 1)
        expected = reference.match_anchors(x.table, x.truth.boxes, x.truth.splits)
        assert torch.equal(compiled.match_one_image(x.table, x.truth.boxes), expected.long())


@pytest.mark.slow
def test_a_provider_is_compiled(compiled: None) -> None:
    provider = part("compiled").compiled(lambda x: x * 2, lambda x: (x,))
    x = torch.ones(3)
    assert provider(x)().tolist() == [2, 2, 2]
    rows = measured(
        {"focaldet": lambda _: lambda: x * 2, "torch.compile": lambda _: provider(x)},
    )
    assert rows["torch.compile"].note.startswith("first call, which compiles: ")
    assert len(rows["torch.compile"].seconds) == 2
