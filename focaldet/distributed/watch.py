"""Who of the run's processes is missing, and in which step: so that no rank waits for ever.

A collective operation waits for all ranks, and cannot tell a slow one from one that will never
come. So each process says once a second that it lives and how far it has come, in the run's store
(a table that one process keeps), and reads there what the others say. `verdict.py` judges that, and
whoever finds that a rank is missing says so and ends: within the timeout and eleven seconds, one
each to say it, to read it, and to judge, and up to eight in which the others can read why.

Time is counted in rounds of the threads here, not by the clock: a process that was stopped and goes
on has not seen the others be silent meanwhile.
"""

from __future__ import annotations

import os
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Protocol

from .verdict import Record, Seen, Verdict, failed, furthest_behind, gone, hanging

LENIENT = 4  # times what the longest phase of the step before took; times the timeout in the first
DEAD = 4  # rounds of silence that mean death where a connection has broken, too
LAST_WORDS = 5.0  # seconds at most to wait for the store, when this rank ends
READ = 2, 8  # rounds, at least and at most, in which the others may read why this rank ends
EXIT_CODE = 1


class Store(Protocol):
    """What is needed of torch's TCPStore."""

    def set(self, key: str, value: str, /) -> None: ...
    def multi_get(self, keys: list[str], /) -> list[bytes]: ...


class Watch:
    """Tells the other ranks of this one, and ends the process when one of them is missing.

    Args:
        store: a connection for this alone: it blocks.
        keeper: who keeps the store, for messages.
        rank, world: of this process, and of the run. Everybody has called `tell` before one starts.
        timeout: seconds that a rank may be silent, or make no mark while others wait for it.
    """

    def __init__(
        self,
        store: Store,
        keeper: str,
        rank: int,
        world: int,
        timeout: float,
    ) -> None:
        self.store: Store = store
        self.keeper: str = keeper
        self.rank: int = rank
        self.timeout: float = timeout
        self.tick: float = min(1.0, timeout / 8)  # seconds, a round
        self.record: Record = Record(limit=LENIENT * timeout)
        self.seen: dict[int, Seen] = {other: Seen(Record(limit=0)) for other in range(world)}
        self._lock = threading.Lock()  # for the record and what follows
        self._began = time.monotonic()  # the phase
        self._longest = 0.0  # phase of this step, in seconds
        self._store_silent = 0.0  # seconds
        self._store_broken = False
        self._failed = 0.0  # seconds since somebody has
        self._ending = threading.Lock()  # held for good by the thread that says why this rank ends
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=loop, daemon=True) for loop in (self._exchange, self._judge)
        ]

    # What the main thread calls.

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def at(self, step: int | None, phase: str, patient: bool = False) -> None:
        """See `Ranks.at`; `patient`: and it may take as long as it likes."""
        with self._lock:
            self._finish_phase()
            if step not in (None, self.record.step):
                if self.record.step:
                    self.record.limit = max(self.timeout, LENIENT * self._longest)
                self.record.step, self.record.phases, self._longest = step, 0, 0.0
                self.record.phase = ""
            self.record.phases += phase != self.record.phase
            self.record.phase, self.record.patient = phase, patient

    @contextmanager
    def patient(self, what: str) -> Iterator[None]:
        """See `Ranks.patient`."""
        with self._lock:
            self._finish_phase()
            before = self.record.phase, self.record.patient
            self.record.phase, self.record.patient = what, True
        try:
            yield
        finally:
            with self._lock:
                self._finish_phase()
                self.record.phase, self.record.patient = before

    def _finish_phase(self) -> None:
        now = time.monotonic()
        if not self.record.patient:
            self._longest = max(self._longest, now - self._began)
        self._began, self.record.idle = now, 0.0

    def culprit(self) -> str | None:
        """Who is to blame for a broken connection, as a message; takes seconds to find out."""
        for _ in range(3 * DEAD):
            if verdict := failed(self._others()) or self._missing(DEAD * self.tick):
                return verdict.message
            time.sleep(self.tick)
        left = [rank for rank, other in self._others().items() if other.record.left]
        return f"rank {left[0]} left the run in {self.seen[left[0]].record.place}" if left else None

    def leave(self, error: str | None = None) -> None:
        """Says that this rank is through, or why it ends, and watches no longer."""
        self._ending.acquire()
        self._stop.set()
        for thread in self._threads:
            thread.join(LAST_WORDS)
        self.record.left, self.record.error = True, error
        if not self._threads[0].is_alive():  # else it waits for the store, perhaps for ever
            last = threading.Thread(target=self._exchange_once, args=(0.0,), daemon=True)
            last.start()
            last.join(LAST_WORDS)

    def wait_for_the_others(self, seconds: float) -> None:
        """For the rank that keeps the store, after it has left: until no other one needs it, who
        still lives."""
        round, end = self.tick / 10, time.monotonic() + seconds
        while any(
            not other.record.left and other.silent < DEAD * self.tick
            for other in self._others().values()
        ):
            time.sleep(round)
            if time.monotonic() > end or not self._exchange_once(round):
                return

    # The thread that talks to the store, and may have to wait for it.

    def _exchange(self) -> None:
        while not self._stop.wait(self.tick):
            self._exchange_once(self.tick)

    def tell(self) -> None:
        """Says how this rank is."""
        with self._lock:
            self.record.beat += 1
            text = self.record.encode()
        self.store.set(_key(self.rank), text)

    def _exchange_once(self, passed: float) -> bool:
        """Says how this rank is, `passed` seconds after the last time, and hears of the others."""
        if self._store_broken:
            return False
        with self._lock:
            self.record.idle += passed
        try:
            self.tell()
            texts = self.store.multi_get([_key(rank) for rank in self.seen])
        except RuntimeError:
            self._store_broken = True
            return False
        new = {}
        for (rank, old), text in zip(self.seen.items(), texts, strict=True):
            record = Record.decode(text)
            new[rank] = Seen(record, old.silent + passed if record.beat == old.record.beat else 0.0)
        self.seen, self._store_silent = new, 0.0
        return True

    # The thread that judges.

    def _judge(self) -> None:
        told = 0.0
        while not self._stop.wait(self.tick):
            self._store_silent += self.tick
            if (verdict := self.verdict()) and self._ending.acquire(blocking=False):
                self._end_process(verdict)
            idle = self.record.idle
            if idle < told:
                told = 0.0
            if idle - told > self.timeout and self._may_go_on():
                told = idle
                _say(f"rank {self.rank} is still in {self.record.place}, after {idle:.0f} s")

    def verdict(self) -> Verdict | None:
        """Why the run cannot go on, if so. Where one has said why it ends, that is it; but the
        main thread may be about to end by it, too, and gets a while for that."""
        if failure := failed(self._others()):
            self._failed += self.tick
            return failure if self._failed > DEAD * self.tick else None
        return self._missing(self.timeout) or hanging(self.seen)

    def _missing(self, longest: float) -> Verdict | None:
        """Who has not been heard of for more than `longest` seconds."""
        if self._store_silent > longest:
            return Verdict(
                f"{self.keeper} is gone in step {self.record.step}: killed or frozen, the run's "
                "store there does not answer"
            )
        return gone(self._others(), longest, self.record.step)

    def _others(self) -> dict[int, Seen]:
        return {rank: other for rank, other in self.seen.items() if rank != self.rank}

    def _may_go_on(self) -> bool:
        """Whether the others may have to wait for this rank, and longer than usual."""
        record = self.record
        lenient = record.limit > self.timeout and self.rank in furthest_behind(self.seen)
        return record.patient or lenient

    def _end_process(self, verdict: Verdict) -> None:
        """Says what has happened, to the other ranks, too, and ends the process at once: its main
        thread may never come back from where it waits."""
        try:
            if self.rank in verdict.culprits:
                frame = sys._current_frames()[threading.main_thread().ident or 0]
                _say(f"rank {self.rank} stands here:\n{''.join(traceback.format_stack(frame))}")
            _say(f"error: {verdict.message}")
            self.record.left, self.record.error = True, verdict.message
            for round in range(READ[1] if self.rank == 0 else READ[0]):  # rank 0 may keep the store
                time.sleep(self.tick)
                if round >= READ[0] and all(o.record.left for o in self._others().values()):
                    break
            sys.stdout.flush()
        finally:
            os._exit(EXIT_CODE)


def _say(text: str) -> None:
    with suppress(OSError, ValueError):  # nobody may be there to read it any more
        print(f"focaldet: {text}", file=sys.stderr, flush=True)


def _key(rank: int) -> str:
    return f"rank/{rank}"
