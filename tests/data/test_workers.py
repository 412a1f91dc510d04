from __future__ import annotations

import errno
import faulthandler
import multiprocessing
import os
import random
import resource
import signal
import subprocess
import sys
import textwrap
import threading
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from focaldet.data import WorkerWarning, workers
from focaldet.data.messages import channel, receive, send
from focaldet.data.workers import AHEAD, ATTEMPTS, Workers
from focaldet.errors import UserError

pytestmark = pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="Linux only")


def square(task: int) -> tuple[int, torch.Tensor]:
    return task * task, torch.full((40, 60), task)


def pool(work: Any = square, count: int = 2, timeout: float = 30) -> Workers[Any, Any]:
    return Workers(work, count, lambda task: f"image {task}", timeout)


def messages(record: Any) -> list[str]:
    """Of workers: a test's sockets that were not closed may warn, too, when they are collected."""
    return [str(w.message) for w in record if w.category is WorkerWarning]


def die(how: signal.Signals) -> None:
    faulthandler.disable()  # pytest's report on standard error
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.kill(os.getpid(), how)


@pytest.fixture(autouse=True)
def no_process_is_left() -> Iterator[None]:
    before = set(multiprocessing.active_children())
    yield
    assert {*multiprocessing.active_children()} <= before


def test_messages_carry_arrays_of_every_kind() -> None:
    ours, theirs = channel()
    large, strided = torch.rand(50, 60), torch.rand(60, 50).T
    values = {
        "large": large,
        "strided": strided,
        "small": torch.arange(3),
        "empty": torch.zeros(0, 4),
        "bfloat16": torch.rand(70, 70).bfloat16(),
        "numpy": np.arange(5000.0).reshape(50, 100),
        "text": "x" * 300_000,  # more than a socket's packet
    }
    send(ours, values)
    ours.close()  # the sender's death takes nothing back
    found = receive(theirs)
    with pytest.raises(EOFError):
        receive(theirs)
    assert found.keys() == values.keys() and found["text"] == values["text"]
    assert np.array_equal(found["numpy"], values["numpy"])
    for key in ("large", "strided", "small", "empty", "bfloat16"):
        assert found[key].dtype == values[key].dtype and torch.equal(found[key], values[key]), key
    found["large"].mul_(2)  # the receiver's own
    assert torch.equal(found["large"], 2 * large)


def test_a_message_leaves_no_descriptor_open() -> None:
    def opened() -> int:
        return len(os.listdir("/proc/self/fd"))

    ours, theirs = channel()
    before = opened()
    for _ in range(5):
        send(ours, torch.zeros(10_000))
        receive(theirs)
    assert opened() == before


@pytest.mark.parametrize("free", (0, 1))  # one for the message, and one that stays
def test_too_many_open_files_is_one_line(free: int, one_line: Any) -> None:
    ours, theirs = channel()
    send(ours, 1)
    limits, fillers = resource.getrlimit(resource.RLIMIT_NOFILE), []
    highest = max(map(int, os.listdir("/proc/self/fd")))
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 1, limits[1]))
    try:
        with pytest.raises(OSError):
            while True:
                fillers.append(os.dup(0))
        for _ in range(free):
            os.close(fillers.pop())
        with pytest.raises(UserError, match="ulimit -n") as caught:
            receive(theirs)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        for descriptor in fillers:
            os.close(descriptor)
    one_line(caught.value)


def test_results_come_in_order() -> None:
    def uneven(task: int) -> int:
        time.sleep(0.02 * (task % 3 == 0))
        return task

    with_two = pool(uneven)
    assert list(with_two.map(range(20))) == list(range(20))
    assert list(with_two.map(iter([]))) == []
    with_two.close()


def test_few_tasks_are_taken_ahead() -> None:
    """Each is a batch in memory."""
    taken = []
    two = pool()
    for done, _ in enumerate(two.map(taken.append(n) or n for n in range(20)), start=1):
        assert done < len(taken) <= done + 2 * AHEAD or done == len(taken) == 20
    two.close()


def test_a_map_that_was_left_gives_way_to_the_next() -> None:
    two = pool()
    left = two.map(range(100, 120))
    next(left)
    assert [number for number, _ in two.map(range(9))] == [n * n for n in range(9)]
    with pytest.raises(RuntimeError, match="one epoch at a time"):
        next(left)
    two.close()


def test_an_exception_has_the_workers_traceback_as_its_cause() -> None:
    class Own(Exception):
        def __init__(self, one: int, two: int) -> None:
            super().__init__("of its own")

    def broken(task: int) -> None:
        raise Own(1, 2) if task else KeyError("a bug")

    two = pool(broken)
    with pytest.raises(KeyError, match="a bug") as caught:
        list(two.map([0]))
    assert "in broken" in str(caught.value.__cause__)
    with pytest.raises(RuntimeError, match="of its own"):  # its class would not arrive
        list(two.map([1]))
    two.close()


def test_a_result_that_cannot_be_sent_is_an_error() -> None:
    one = pool(lambda task: lambda: task, 1)
    with pytest.raises(RuntimeError, match="pickle"):
        list(one.map([0]))
    one.close()


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSEGV, "exit"])
def test_a_worker_that_dies_once_changes_nothing(how: Any, tmp_path: Path) -> None:
    def dies_at_seven(task: int) -> int:
        if task == 7 and not (tmp_path / "died").exists():
            (tmp_path / "died").touch()
            os._exit(3) if how == "exit" else die(how)
        return task

    two = pool(dies_at_seven)
    with pytest.warns(WorkerWarning) as record:
        assert list(two.map(range(20))) == list(range(20))
    (message,) = messages(record)
    assert "image 7" in message
    assert ("exit code 3" if how == "exit" else how.name) in message
    two.close()


def test_a_worker_that_dies_between_epochs_is_replaced() -> None:
    two = pool()
    list(two.map(range(3)))
    for process in multiprocessing.active_children():
        process.kill()
        process.join()
    with pytest.warns(WorkerWarning, match="SIGKILL .as where memory runs out.; another takes"):
        assert [n for n, _ in two.map(range(5))] == [0, 1, 4, 9, 16]
    two.close()


def test_a_warning_that_is_raised_leaves_a_pool_that_works() -> None:
    two = pool()
    assert next(two.map(range(4)))[0] == 0
    pid = next(iter(multiprocessing.active_children())).pid
    os.kill(pid or 0, signal.SIGKILL)
    with warnings.catch_warnings():
        warnings.simplefilter("error", WorkerWarning)
        with pytest.raises(WorkerWarning, match="another takes its place"):
            while True:
                list(two.map(range(4)))
    assert [number for number, _ in two.map(range(9))] == [n * n for n in range(9)]
    two.close()


def test_a_task_that_always_kills_is_given_up(one_line: Any) -> None:
    def deadly(task: int) -> int:
        if task == 5:
            die(signal.SIGBUS)
        return task

    two, found = pool(deadly), []
    with pytest.warns(WorkerWarning) as record, pytest.raises(UserError) as caught:
        for result in two.map(range(20)):
            found.append(result)
    assert len(messages(record)) == ATTEMPTS - 1 and found == list(range(5))
    message = one_line(caught.value)
    assert f"died {ATTEMPTS} times" in message and "image 5" in message and "SIGBUS" in message


def test_kills_at_random_moments_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The messages, too, are cut off anywhere: large ones, so that they take their time."""
    monkeypatch.setattr(workers, "ATTEMPTS", 100)  # whom it hits is chance
    others = set(multiprocessing.active_children())
    rng, stop, killed = random.Random(0), threading.Event(), []

    def noise(task: int) -> torch.Tensor:
        return torch.rand(300_000, generator=torch.Generator().manual_seed(task))

    def kill() -> None:
        while len(killed) < 30 and not stop.wait(rng.uniform(0.005, 0.04)):
            if alive := list({*multiprocessing.active_children()} - others):
                victim = rng.choice(alive)
                victim.kill()
                killed.append(victim.pid)

    three = pool(noise, 3)
    killer = threading.Thread(target=kill)
    killer.start()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", WorkerWarning)
            for task, result in enumerate(three.map(range(150))):
                assert torch.equal(result, noise(task)), task
    finally:
        stop.set()
        killer.join()
    assert len(killed) > 10
    three.close()


def test_a_worker_that_cannot_be_started(monkeypatch: pytest.MonkeyPatch, one_line: Any) -> None:
    def no_process(_: Any) -> None:
        raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    monkeypatch.setattr(multiprocessing.Process, "start", no_process)
    monkeypatch.setattr(multiprocessing.get_context().Process, "start", no_process)
    with pytest.raises(UserError, match="temporarily unavailable.*fewer --workers") as caught:
        list(pool().map([0]))
    one_line(caught.value)


def test_a_slow_task_is_named_and_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "PATIENCE", 0.2)

    def slow(task: int) -> int:
        time.sleep(0.6 * (task == 1))
        return task

    two = pool(slow)
    with pytest.warns(WorkerWarning, match=r"still waiting for image 1 \(worker process") as record:
        assert list(two.map(range(4))) == [0, 1, 2, 3]
    assert len(messages(record)) == 1
    two.close()


def test_a_worker_that_hangs_is_an_error_after_the_timeout(one_line: Any) -> None:
    def hangs(task: int) -> int:
        while task == 2:
            os.kill(os.getpid(), signal.SIGSTOP)  # not even signals reach it
        return task

    start = time.monotonic()
    with pytest.raises(UserError, match="no batch for 3 s: waiting for image 2") as caught:
        list(pool(hangs, timeout=3).map(range(9)))
    one_line(caught.value)
    assert time.monotonic() - start < 20


SCRIPT = """
import os, signal, sys, time
from focaldet.data.workers import Workers

def work(task):
    if task > 3:
        time.sleep(0.05)
    return os.getpid()

workers = Workers(work, 3, str, 60)
for pid in workers.map(range(10**6)):
    print(pid, flush=True)
"""


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_workers_do_not_outlive_the_main_process(how: signal.Signals, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(SCRIPT))
    with subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True) as process:
        pids = {int(process.stdout.readline()) for _ in range(12)}
        assert len(pids) > 1
        for pid in pids:  # a signal to the group: the main process decides, not they
            os.kill(pid, signal.SIGTERM)
        time.sleep(0.2)
        assert all(map(alive, pids))
        process.send_signal(how)
        process.wait(10)
        deadline = time.monotonic() + 10
        while any(map(alive, pids)):
            assert time.monotonic() < deadline, "a worker is left"
            time.sleep(0.02)
