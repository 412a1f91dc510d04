"""Worker processes that outlive accidents: results in order, whichever of them die on the way.

torch's DataLoader ends the run when a worker dies: its signal handler raises in the main process,
wherever that stands, in the middle of an optimizer step, too; and a worker killed while it writes
to the queue that all share leaves that locked. Here every worker has a socket of its own, whose
end is the news of its death. Another takes its place and its tasks, whose results are the same,
as they depend on the task alone.
"""

from __future__ import annotations

import atexit
import gc
import multiprocessing
import os
import pickle
import signal
import socket
import time
import traceback
import warnings
import weakref
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from typing import Any, Generic, NoReturn, TypeVar

import torch

from ..errors import DataWarning, UserError
from .messages import channel, receive, send

Task = TypeVar("Task")
Result = TypeVar("Result")

AHEAD = 2  # tasks a worker: one in work, one ready to begin
ATTEMPTS = 3  # at a task whose workers die
PATIENCE = 30.0  # seconds without the result that is due, until a warning says so


class WorkerWarning(DataWarning):
    """A worker process died and was replaced, or takes long."""


class Workers(Generic[Task, Result]):
    """A pool of processes; it starts with the first task.

    Args:
        work: Task to result, called in the workers as it is when they start.
        count: Processes, at least 1.
        name: Task to text, as messages name it: "the images a.jpg, b.jpg".
        timeout: Seconds without the result that is due, until that is an error.
    """

    def __init__(
        self,
        work: Callable[[Task], Result],
        count: int,
        name: Callable[[Task], str],
        timeout: float,
    ) -> None:
        self._work, self._count, self._name, self._timeout = work, count, name, timeout
        self._workers: list[_Worker] = []
        self._sent = 0  # tasks, ever: their numbers go on rising, so a late result is known as such
        self._due = 0  # the number of the next result
        self._tasks: dict[int, Task] = {}  # those without a result
        self._results: dict[int, Result | _Raised] = {}  # those not due yet
        self._deaths: Counter[int] = Counter()
        self._run = 0  # calls of `map`
        self._owner = os.getpid()
        _live.add(self)

    def map(self, tasks: Iterable[Task]) -> Iterator[Result]:
        """The results in the order of the tasks. A new call ends the one before.

        Raises what `work` raised, with the worker's traceback as its cause; `UserError` where
        workers die `ATTEMPTS` times at one task, and after the timeout.
        """
        self._tasks.clear()
        self._results.clear()
        self._due = self._sent
        self._run += 1
        run, source = self._run, iter(tasks)
        self._send_ahead(source)
        while self._due < self._sent:
            self._wait_for(self._due)
            result = self._results.pop(self._due)
            self._due += 1
            self._send_ahead(source)
            if isinstance(result, _Raised):
                result.again()
            else:
                yield result
            if self._run != run:
                raise RuntimeError("expected one epoch at a time: another has begun meanwhile")

    def close(self) -> None:
        """Ends the processes; a later `map` starts others."""
        if os.getpid() == self._owner:  # in a worker: what it was forked with is not its own
            for worker in self._workers:
                worker.channel.close()  # those that wait for a task end by themselves
            deadline = time.monotonic() + 1
            for worker in self._workers:
                worker.end(deadline - time.monotonic())
        self._workers.clear()

    def __del__(self) -> None:
        self.close()

    def _send_ahead(self, source: Iterator[Task]) -> None:
        while len(self._workers) < self._count:
            self._workers.append(_Worker(self._work))
        while self._collect(0):
            pass
        while self._sent - self._due < AHEAD * self._count:
            try:
                task = next(source)
            except StopIteration:
                return
            number, self._sent = self._sent, self._sent + 1
            self._tasks[number] = task
            min(self._workers, key=lambda worker: len(worker.numbers)).give(number, task)

    def _wait_for(self, number: int) -> None:
        start, patience = time.monotonic(), min(PATIENCE, self._timeout)
        while number not in self._results:
            waited = time.monotonic() - start
            if waited >= self._timeout:
                self._give_up(
                    f"no batch for {waited:.0f} s: waiting for {self._where(number)}; is the disk "
                    "that they are on slow, or out of reach?"
                )
            if waited >= patience:
                patience = self._timeout
                warnings.warn(
                    f"no batch for {waited:.0f} s: still waiting for {self._where(number)}",
                    WorkerWarning,
                    stacklevel=2,
                )
            self._collect(patience - waited)

    def _collect(self, seconds: float) -> bool:
        """Takes in what has come, waiting for something; whether anything has."""
        by_channel = {worker.channel: worker for worker in self._workers}
        limit = None if seconds == float("inf") else max(0.0, seconds)
        ready = wait(list(by_channel), limit)
        for end in ready:
            worker = by_channel[end]  # type: ignore[index]
            try:
                number, result = receive(worker.channel)
            except (EOFError, ConnectionError):
                self._replace(worker)
                continue
            worker.numbers.popleft()
            if self._tasks.pop(number, None) is not None:
                self._results[number] = result
        return bool(ready)

    def _replace(self, worker: _Worker) -> None:
        """Another in the place of a dead one, with its tasks."""
        how = worker.end(5.0)
        numbers = [number for number in worker.numbers if number in self._tasks]
        at = f" while it loaded {self._name(self._tasks[numbers[0]])}" if numbers else ""
        if numbers:
            self._deaths[numbers[0]] += 1
            if self._deaths[numbers[0]] == ATTEMPTS:
                self._give_up(
                    f"worker processes died {ATTEMPTS} times{at.replace('it', 'they', 1)}, the "
                    f"last {how}; with --workers 0 (in Python workers=0) this process loads them"
                )
        self._workers.remove(worker)  # first, for what follows may raise, a warning, too
        self._workers.append(new := _Worker(self._work))
        for number in numbers:
            new.give(number, self._tasks[number])
        warnings.warn(
            f"worker process {worker.process.pid} {how}{at}; another takes its place",
            WorkerWarning,
            stacklevel=2,
        )

    def _give_up(self, message: str) -> NoReturn:
        self.close()
        raise UserError(message)

    def _where(self, number: int) -> str:
        pid = next(w.process.pid for w in self._workers if number in w.numbers)
        return f"{self._name(self._tasks[number])} (worker process {pid})"


_live: weakref.WeakSet[Workers[Any, Any]] = weakref.WeakSet()
_ends: weakref.WeakSet[socket.socket] = weakref.WeakSet()  # the main process's, of all workers


@atexit.register  # before multiprocessing's, which would wait for workers that wait for tasks
def _close_all() -> None:
    for workers in list(_live):
        workers.close()


class _Worker:
    """One process, and the numbers of the tasks that it has not answered."""

    def __init__(self, work: Callable[[Any], Any]) -> None:
        self.numbers: deque[int] = deque()
        try:
            self.channel, theirs = channel()
            _ends.add(self.channel)
            self.process: BaseProcess = multiprocessing.get_context().Process(
                target=_serve, args=(work, theirs), daemon=True
            )
            self.process.start()
        except OSError as error:
            raise UserError(
                f"a worker process cannot be started ({error.strerror}); expected fewer --workers "
                "(in Python workers), or higher limits on processes, memory and open files"
            ) from error
        theirs.close()  # so that the worker alone holds it, and its death closes it

    def give(self, number: int, task: Any) -> None:
        self.numbers.append(number)
        try:
            send(self.channel, (number, task))
        except ConnectionError:
            pass  # dead: the next look at its channel finds out

    def end(self, seconds: float) -> str:
        """Waits for the process to end, kills it after a time, and says how it ended."""
        self.channel.close()
        self.process.join(max(0.0, seconds))
        if self.process.is_alive():
            self.process.kill()
            self.process.join(1.0)
        code = self.process.exitcode
        if code is None or code >= 0:
            return f"ended with exit code {code}"
        memory = " (as where memory runs out)" if code == -signal.SIGKILL else ""
        return f"was ended by {signal.Signals(-code).name}{memory}"


class _Raised:
    """An exception on its way to the main process, with the traceback as text."""

    def __init__(self, error: Exception) -> None:
        self.error, self.trace = error, traceback.format_exc()
        try:  # an exception with a constructor of its own may not arrive
            pickle.loads(pickle.dumps(error))
        except Exception:
            self.error = RuntimeError(repr(error))

    def again(self) -> None:
        raise self.error from RuntimeError(f"in a worker process:\n{self.trace}")


def _serve(work: Callable[[Any], Any], end: socket.socket) -> None:
    """What a worker runs, until the main process closes its end or is gone."""
    # A fork holds the main process's ends, too: they would never close.
    for other in list(_ends):
        other.close()
    # Ctrl-C and SIGTERM may reach every process of a group, but the main one alone ends the run.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", DataWarning)  # the main process says it, once
    gc.freeze()  # the collector's marks would copy every page that is shared with the main process
    try:
        while True:
            number, task = receive(end)
            try:
                answer = work(task)
            except Exception as error:
                answer = _Raised(error)
            try:
                send(end, (number, answer))
            except ConnectionError:
                raise
            except Exception as error:  # no memory, or nothing that can be sent
                send(end, (number, _Raised(RuntimeError(f"not sent: {error!r}"))))
    except (EOFError, ConnectionError):
        pass
