"""What is made of the ranks' records, and how a watch keeps its own."""

from __future__ import annotations

import os
import sys
import threading
import time
from typing import Any

import pytest

from focaldet.distributed.verdict import (
    Record,
    Seen,
    Verdict,
    failed,
    furthest_behind,
    gone,
    hanging,
)
from focaldet.distributed.watch import Watch

LIMIT = 45.0


def seen(silent: float = 0.0, **changes: Any) -> Seen:
    """A rank in the midst of step 7, which has just made progress."""
    standard = {"limit": LIMIT, "step": 7, "phase": "backward", "phases": 2, "patient": False}
    return Seen(Record(**standard | changes), silent)


def waits(**changes: Any) -> Seen:
    return seen(**{"idle": 100.0} | changes)


def test_a_record_survives_the_store() -> None:
    record = seen(error='rank 1 failed: 1 Gb of "it"').record
    assert Record.decode(record.encode().encode()) == record


def test_the_one_furthest_behind_hangs() -> None:
    everyone = {0: waits(), 1: waits(phase="loading", phases=1), 2: waits()}
    verdict = hanging(everyone)
    assert verdict and verdict.culprits == (1,)
    assert verdict.message == (
        "rank 1 hangs in step 7 (loading): no progress for 100 s; raise --timeout for slow steps"
    )
    everyone[2] = waits(step=6, phase="logging", phases=9)
    assert furthest_behind(everyone) == [2], "the step counts before the phases in it"


def test_those_who_are_equally_far_are_all_named() -> None:
    verdict = hanging({0: waits(), 1: waits(idle=46.0)})
    assert verdict and verdict.culprits == (0, 1)
    assert verdict.message.startswith("ranks 0, 1 hang in step 7 (backward): no progress for 46 s")


@pytest.mark.parametrize(
    "excuse",
    [
        {"idle": LIMIT},  # makes progress
        {"idle": 100.0, "limit": 180.0},  # was slow in the step before, too
        {"idle": 100.0, "patient": True, "phase": "scoring"},
    ],
)
def test_nobody_hangs_while_one_may_go_on(excuse: dict[str, Any]) -> None:
    assert hanging({0: seen(**excuse), 1: waits(phase="loading", phases=1)}) is None


def test_nobody_waits_for_a_process_by_itself() -> None:
    assert hanging({0: waits()}) is None


def test_who_has_left_is_not_waited_for() -> None:
    assert hanging({0: waits(left=True, patient=True), 1: waits(left=True)}) is None
    verdict = hanging({0: waits(left=True, step=3), 1: waits()})
    assert verdict and verdict.culprits == (1,)
    assert gone({0: seen(silent=100.0, left=True)}, 45.0, 7) is None


def test_who_is_not_heard_of_is_gone() -> None:
    everyone = {0: seen(), 1: seen(silent=46.0, step=6), 2: seen(silent=47.0, step=6)}
    verdict = gone(everyone, 45.0, step=7)
    assert verdict and verdict.culprits == (1, 2)
    assert verdict.message == (
        "ranks 1, 2 are gone in step 7: killed or frozen, not heard of for 46 s"
    )
    assert gone(everyone, 50.0, step=7) is None


def test_a_failure_is_told_in_the_words_of_the_rank() -> None:
    text = "rank 1 failed in step 7 (forward): out of luck"
    verdict = failed({0: seen(), 1: seen(error=text)})
    assert verdict and (verdict.message, verdict.culprits) == (text, (1,))
    assert failed({0: seen()}) is None


class Table:
    """A store in this process."""

    def __init__(self) -> None:
        self.rows: dict[str, str] = {}

    def set(self, key: str, value: str) -> None:
        self.rows[key] = value

    def multi_get(self, keys: list[str]) -> list[bytes]:
        return [self.rows[key].encode() for key in keys]


def a_watch(timeout: float = 8.0) -> Watch:
    return Watch(Table(), "rank 0", 0, 1, timeout)


def test_marks() -> None:
    watch = a_watch()
    record = watch.record
    assert record.patient and record.place == "step 0 (starting)"
    watch.at(1, "loading")
    assert (record.step, record.phases, record.patient) == (1, 1, False)
    for _ in range(3):  # however many batches are evaluated
        watch.at(1, "evaluating")
    assert record.phases == 2
    record.idle = 5.0
    with watch.patient("scoring"):
        assert (record.place, record.patient, record.idle) == ("step 1 (scoring)", True, 0.0)
    assert (record.place, record.patient, record.phases) == ("step 1 (evaluating)", False, 2)
    watch.at(2, "evaluating")
    assert (record.step, record.phases) == (2, 1), "another step's phase, of the same name"


def test_a_phase_may_take_four_times_the_longest_of_the_step_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    watch = a_watch(timeout=45)

    def mark(step: int, phase: str, seconds: float) -> float:
        """Of a phase that takes so long; how long it may take."""
        watch.at(step, phase)
        now[0] += seconds
        return watch.record.limit

    now[0] += 300  # reads its data
    assert mark(1, "forward", 20) == 180, "the first step's, four times the timeout"
    with watch.patient("compiling"):
        now[0] += 400
    mark(1, "backward", 10)
    assert mark(2, "forward", 5) == 80, "neither starting nor patience is a measure"
    assert mark(2, "backward", 50) == 80
    assert mark(3, "forward", 1) == 200
    assert mark(4, "forward", 1) == 45, "the step before alone, and the timeout at least"


def test_a_rank_leaves_though_the_store_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its keeper is frozen, since the last time that it was asked."""
    monkeypatch.setattr("focaldet.distributed.watch.LAST_WORDS", 0.2)
    watch = a_watch()
    thawed = threading.Event()
    answer = watch.store.multi_get
    monkeypatch.setattr(watch.store, "multi_get", lambda keys: [thawed.wait(20), answer(keys)][1])
    watch._threads = [threading.Thread() for _ in watch._threads]
    watch.start()  # they have nothing to do
    start = time.monotonic()
    watch.leave()
    assert time.monotonic() - start < 5
    assert '"left": true' in watch.store.rows["rank/0"]  # type: ignore[attr-defined]
    thawed.set()


def test_a_process_ends_though_nobody_reads_what_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """As after a terminal is closed: an error in the thread that judges would be a hang."""

    class Closed:
        def write(self, text: str) -> None:
            raise BrokenPipeError

    codes: list[int] = []
    watch = a_watch(timeout=0.1)
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", Closed())
        patch.setattr(os, "_exit", codes.append)
        watch._end_process(Verdict("rank 0 hangs", (0,)))
    assert codes == [1] and watch.record.error == "rank 0 hangs"


def test_a_mark_is_cheap() -> None:
    watch = a_watch()
    start = time.perf_counter()
    for step in range(10_000):
        watch.at(step, "forward")
    assert time.perf_counter() - start < 1.0, "100 microseconds each, of steps of milliseconds"
