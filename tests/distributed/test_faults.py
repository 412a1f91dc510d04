"""No rank waits for ever: whatever happens to one, the others end, and say who it was and where."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
import torch
from processes import Ended, run_ranks, told

from focaldet.distributed import Ranks, join, patient_with_compiler
from focaldet.distributed.watch import LENIENT

TIMEOUT = 2.5  # seconds instead of 45; the watch's rounds are shorter in proportion
NOTICED = TIMEOUT * (1 + 11 / 8) + 3  # the timeout, eleven rounds, and a machine that is busy

HANGS = r"error: rank (\d) hangs in step 7 \(loading\): no progress for \d s; raise --timeout"
GONE = r"error: rank (\d).* is gone in step 7: killed or frozen"
FAILED = r"error: rank (\d) failed in step 7 \(loading\): out of luck"


@contextmanager
def joined() -> Iterator[Ranks]:
    """Time to find each other, on a machine that is busy, and little for what follows."""
    with join("cpu", timeout=20) as ranks:
        watch = ranks.watch
        watch.timeout, watch.tick, watch.record.limit = TIMEOUT, TIMEOUT / 8, LENIENT * TIMEOUT
        time.sleep(1.5)  # their threads are on their last long round
        ranks.sum(torch.ones(1))
        yield ranks


def step(ranks: Ranks, number: int) -> None:
    """Of a training in which the ranks wait for each other once a step."""
    ranks.at(number, "backward")
    ranks.sum(torch.ones(3))


def fault(kind: str, culprit: int) -> None:
    with joined() as ranks:
        for number in range(1, 7):
            step(ranks, number)
        ranks.at(7, "loading")
        if ranks.rank == culprit:
            print("the fault:", time.monotonic())
            FAULTS[kind]()
        step(ranks, 7)


def fail() -> None:
    raise RuntimeError("out of luck")


def loop() -> None:
    while True:
        pass


FAULTS = {
    "killed": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "frozen": lambda: os.kill(os.getpid(), signal.SIGSTOP),
    "asleep": lambda: time.sleep(100),
    "busy": loop,
    "fails": fail,
}
CASES = [(kind, culprit) for kind in FAULTS for culprit in (0, 1)]


def patience() -> None:
    """Of rank 0, in a task that it does alone, and of rank 1, in the midst of a step."""
    with joined() as ranks:
        time.sleep(1.5 * TIMEOUT * ranks.rank)  # one starts later
        step(ranks, 1)
        ranks.at(2, "scoring")
        assert ranks.first(lambda: time.sleep(1.5 * TIMEOUT) or "done") == "done"
        step(ranks, 2)
        if ranks.rank == 1:
            with ranks.patient("compiling"):
                time.sleep(1.5 * TIMEOUT)
        step(ranks, 3)


def uneven() -> None:
    """Rank 1 has more to evaluate, and takes longer than one may wait for a rank that hangs."""
    with joined() as ranks:
        for number in (1, 2, 3):
            step(ranks, number)
        for _ in range(8 * ranks.rank):
            ranks.at(3, "evaluating")
            time.sleep(TIMEOUT / 4)
        ranks.at(3, "gathering")
        ranks.sum(torch.ones(3))


def slow() -> None:
    """Steps get longer than the timeout, but not at once."""
    with joined() as ranks:
        for number, seconds in enumerate((0.0, TIMEOUT / 2, 1.3 * TIMEOUT), 1):
            ranks.at(number, "backward")
            time.sleep(seconds)
            ranks.sum(torch.ones(3))


def compiling() -> None:
    """Rank 1's third batch has a new shape."""

    def slow_backend(graph: torch.fx.GraphModule, _: list[torch.Tensor]) -> object:
        time.sleep(1.5 * TIMEOUT)
        return graph.forward

    double = torch.compile(lambda x: 2 * x, backend=slow_backend)
    with joined() as ranks, patient_with_compiler(ranks):
        for number in (1, 2, 3):
            step(ranks, number)
            if ranks.rank == 1 and number == 3:
                double(torch.ones(number))
        step(ranks, 4)


def paused() -> None:
    """All ranks, as by Ctrl-Z or a container's pause, for longer than the timeout."""
    with joined() as ranks:
        for number in (1, 2, 3):
            step(ranks, number)
        own = os.getpid()
        subprocess.Popen(["sh", "-c", f"sleep {2 * TIMEOUT}; kill -CONT {own}"])
        os.kill(own, signal.SIGSTOP)
        time.sleep(TIMEOUT / 2)
        step(ranks, 4)


def unconnected() -> None:
    """They have found each other, but a firewall lets nothing else through."""
    torch.distributed.init_process_group = lambda *_, **__: time.sleep(100)
    with join("cpu", TIMEOUT / 3):
        pass


Outcomes = dict[tuple[str, int], list[Ended]]


@pytest.fixture(scope="module")
def outcomes() -> Outcomes:
    """Of all cases; several run at a time, for they mostly wait."""

    def outcome(case: tuple[str, int]) -> list[Ended]:
        if case[0] not in FAULTS:
            return run_ranks(globals()[case[0]])
        frozen = case[1] if case[0] == "frozen" else None
        return run_ranks(fault, *case, world=3, seconds=60, frozen=frozen)

    kinds = ("patience", "uneven", "slow", "compiling", "paused", "unconnected")
    cases = [*CASES, *((kind, 0) for kind in kinds)]
    with ThreadPoolExecutor(4) as pool:
        return dict(zip(cases, pool.map(outcome, cases), strict=True))


def occurred(ranks: list[Ended], culprit: int) -> float:
    found = re.search(r"the fault: ([\d.]+)", ranks[culprit].output)
    assert found, told(ranks)
    return float(found[1])


@pytest.mark.parametrize(("kind", "culprit"), CASES)
def test_the_others_say_who_it_was(outcomes: Outcomes, kind: str, culprit: int) -> None:
    ranks = outcomes[kind, culprit]
    expected = {"asleep": HANGS, "busy": HANGS, "fails": FAILED}.get(kind, GONE)
    for rank in set(range(3)) - {culprit}:
        assert ranks[rank].code in (1, 2), told(ranks)
        lines = [line for line in ranks[rank].output.splitlines() if "focaldet: error" in line]
        found = re.search(expected, lines[0]) if len(lines) == 1 else None
        assert found and int(found[1]) == culprit, told(ranks)
        assert ranks[rank].at - occurred(ranks, culprit) < NOTICED, told(ranks)


@pytest.mark.parametrize("culprit", (0, 1))
def test_the_culprit_shows_where_it_hangs(outcomes: Outcomes, culprit: int) -> None:
    ranks = outcomes["asleep", culprit]
    ended = ranks[culprit]
    assert ended.code == 1 and ended.at - occurred(ranks, culprit) < NOTICED, ended
    assert f"rank {culprit} stands here:" in ended.output and "time.sleep(100)" in ended.output
    assert re.search(HANGS, ended.output), ended


@pytest.mark.parametrize("culprit", (0, 1))
def test_an_error_is_told_at_once(outcomes: Outcomes, culprit: int) -> None:
    """And shown whole where it happened."""
    ranks = outcomes["fails", culprit]
    for rank, ended in enumerate(ranks):
        assert ended.output.count("RuntimeError: out of luck") == (rank == culprit), told(ranks)
        assert ended.at - occurred(ranks, culprit) < 2 * TIMEOUT, told(ranks)


def test_who_asks_for_patience_is_waited_for_and_heard_of(outcomes: Outcomes) -> None:
    ranks = outcomes["patience", 0]
    assert [rank.code for rank in ranks] == [0, 0], told(ranks)
    assert "rank 0 is still in step 2 (what rank 0 does alone), after" in ranks[0].output
    assert "rank 1 is still in step 2 (compiling), after" in ranks[1].output
    assert "error" not in told(ranks)


def test_who_compiles_is_waited_for(outcomes: Outcomes) -> None:
    ranks = outcomes["compiling", 0]
    assert [rank.code for rank in ranks] == [0, 0], told(ranks)
    assert "rank 1 is still in step 3 (compiling), after" in ranks[1].output
    assert ranks[0].output == ""


@pytest.mark.parametrize("kind", ("uneven", "paused"))
def test_no_fault(outcomes: Outcomes, kind: str) -> None:
    ranks = outcomes[kind, 0]
    assert [(rank.code, rank.output) for rank in ranks] == [(0, ""), (0, "")], told(ranks)


def test_a_slow_step_is_no_fault_if_the_one_before_was_slow(outcomes: Outcomes) -> None:
    ranks = outcomes["slow", 0]
    assert [rank.code for rank in ranks] == [0, 0], told(ranks)
    assert "rank 0 is still in step 3 (backward), after" in ranks[0].output


def test_ranks_that_cannot_connect_do_not_wait_for_ever(outcomes: Outcomes) -> None:
    ranks = outcomes["unconnected", 0]
    assert [rank.code for rank in ranks] == [1, 1], told(ranks)
    for rank in ranks:
        named = r"error: ranks 0, 1 hang in step 0 \(connecting\): no progress for \d s"
        assert re.search(named, rank.output), told(ranks)
