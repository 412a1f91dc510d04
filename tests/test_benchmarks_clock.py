"""The clock of benchmarks, on the CPU, on a GPU and on its stand-in; what memory a call takes."""

from __future__ import annotations

import importlib
import re
import resource
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
pytestmark = pytest.mark.usefixtures("benchmarks")


def part(name: str) -> ModuleType:
    return importlib.import_module(f"benchmarks.{name}")


# The clock --------------------------------------------------------------------------------------


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time that the clock shows."""
    time = [0.0]
    monkeypatch.setattr(part("clock"), "timer", lambda: time[0])
    return time


def test_what_a_run_uses_up_is_made_off_the_clock(now: list[float]) -> None:
    made: list[list[int]] = []

    def make() -> list[int]:
        now[0] += 100.0
        made.append([len(made)])
        return made[-1]

    def use(each: list[int]) -> int:
        now[0] += 2.0
        return each.pop()  # fails where something is used twice

    run = part("case").Consuming(make, use)
    assert part("clock").seconds_of(run, 3) == 2.0
    assert made == [[], [], []]
    assert run() == 3


def test_cold_caches_are_flushed_before_every_call_off_the_clock(
    now: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, log = part("clock"), []

    def flush() -> None:
        now[0] += 50.0
        log.append("flush")

    def run() -> None:
        now[0] += 3.0
        log.append("run")

    monkeypatch.setattr(clock, "_flush", lambda device: flush)
    assert clock.clock(CPU, "cold")(run, 2) == 3.0
    assert log == ["flush", "run"] * 2
    assert clock.calls_for(1e-6, "cold", False) == clock.MOST_FLUSHED < 5000
    assert clock.calls_for(1e-6, "warm", False) == 5000 and clock.calls_for(9.0, "warm", True) == 1


def test_the_flush_is_larger_than_the_cache() -> None:
    clock = part("clock")
    assert clock.cache_size(CPU) >= 1 << 20
    assert clock._flush(CPU)().nbytes >= 2 * clock.cache_size(CPU)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch, now: list[float]) -> list[str]:
    """What a stand-in was given, between events in brackets. Flushes take 1 ms, runs 10 µs."""
    clock, log = part("clock"), []

    def between_events(device: torch.device, use: Callable[[], Any]) -> float:
        log.append("[")
        start = len(log)
        use()
        launched = log[start:]
        log.append("]")
        return 1e-3 * launched.count("flush ") + 1e-5 * launched.count("run ")

    monkeypatch.setattr(clock, "_flush", lambda device: lambda: log.append("flush "))
    monkeypatch.setattr(clock, "_between_events", between_events)
    return log


def test_a_gpu_is_busy_with_flushes_before_each_call_with_cold_caches(gpu: list[str]) -> None:
    cold = part("clock").clock(CUDA, "cold")
    assert "".join(gpu) == "[flush ]" * 3  # which time a flush
    gpu.clear()
    assert cold(lambda: gpu.append("run "), 2) == pytest.approx(1e-5)
    assert "".join(gpu) == "flush flush flush [run ]" * 2


def test_a_gpus_calls_with_warm_caches_follow_each_other(gpu: list[str]) -> None:
    clock, case = part("clock"), part("case")
    warm = clock.clock(CUDA, "warm")
    assert warm(lambda: gpu.append("run "), 3) == pytest.approx(1e-5)
    assert "".join(gpu) == "[run run run ]"
    gpu.clear()
    made = case.Consuming(lambda: gpu.append("make "), lambda _: gpu.append("run "))
    assert warm(made, 2) == pytest.approx(1e-5)
    assert "".join(gpu) == "make [run ]" * 2


def test_a_gpu_that_waits_for_its_host_is_remarked_on(gpu: list[str], now: list[float]) -> None:
    clock, cost = part("clock"), [4e-5]

    def run() -> None:
        now[0] += cost[0]
        gpu.append("run ")

    remark = clock.launch_bound(CUDA, run, True)
    assert remark == "launch-bound: back to back a call takes 40 µs, 10 on the GPU"
    cost[0] = 1.2e-5
    assert clock.launch_bound(CUDA, run, True) == ""


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_a_gpu_is_timed() -> None:
    """A copy of 256 MB is no faster cold than memory allows, and its peak is what it makes."""
    clock = part("clock")
    x = torch.ones(1 << 26, device=CUDA)
    for cache in ("warm", "cold"):
        assert 2e-5 < clock.clock(CUDA, cache)(x.clone, 3) < 0.1
    assert part("memory").taken(x.clone, CUDA) == x.nbytes
    tiny = torch.ones(1, device=CUDA)
    many = lambda: [tiny.add_(1) for _ in range(20)]  # noqa: E731
    assert "launch-bound" in clock.launch_bound(CUDA, many, True)
    found = part("limits").bandwidths(CUDA, False)
    assert min(found.values()) > 1e10


# Memory -----------------------------------------------------------------------------------------


def test_peak_counts_temporaries_and_results_but_no_inputs() -> None:
    case, memory = part("case"), part("memory")
    x = torch.ones(1 << 20)  # 4 MB

    def two_at_a_time() -> torch.Tensor:
        y = x + 1
        y = y + 1
        return y + 1

    assert memory.taken(two_at_a_time, CPU) == pytest.approx(8 << 20, abs=4096)
    assert memory.taken(lambda: x.sum(), CPU) < 4096
    made = case.Consuming(lambda: x * 2, lambda y: y.add_(1))
    assert memory.taken(made, CPU) < 4096


def test_peak_sees_the_workspace_of_our_operators() -> None:
    ops = importlib.import_module("focaldet.ops")
    x, labels = torch.randn(1000, 80, requires_grad=True), torch.zeros(1000, dtype=torch.int64)
    loss = lambda: torch.autograd.grad(ops.sigmoid_focal_loss(x, labels, reduction="sum"), x)  # noqa: E731
    assert x.nbytes <= part("memory").taken(loss, CPU) <= x.nbytes + 4096


def test_an_allocation_that_the_machine_cannot_hold_fails_before_it_is_used() -> None:
    memory = part("memory")
    meminfo = Path("/proc/meminfo")
    total = int(re.search(r"MemTotal:\s+(\d+)", meminfo.read_text())[1]) * 1024
    before = resource.getrlimit(resource.RLIMIT_DATA)
    with memory.within_machine(), pytest.raises(RuntimeError) as caught:
        torch.empty(2 * total, dtype=torch.uint8)
    assert memory.is_exhausted(caught.value)
    assert resource.getrlimit(resource.RLIMIT_DATA) == before
