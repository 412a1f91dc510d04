"""How ranks find each other, and what is said where they do not."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator

import pytest
import torch
from processes import free_port, run_ranks, told
from torch.distributed import TCPStore

from focaldet.distributed import join
from focaldet.distributed.environment import read_environment
from focaldet.errors import UserError

RANK_1 = {
    "RANK": "1",
    "LOCAL_RANK": "1",
    "WORLD_SIZE": "2",
    "MASTER_ADDR": "127.0.0.1",
    "MASTER_PORT": "29500",
}


def test_torchruns_environment_is_read() -> None:
    place = read_environment(RANK_1)
    assert place and (place.rank, place.world, place.local_rank) == (1, 2, 1)
    assert (place.address, place.served, place.attempt) == ("127.0.0.1:29500", False, 0)
    assert not place.keeps_store
    first = read_environment(RANK_1 | {"RANK": "0"})
    assert first and first.keeps_store
    served = read_environment(
        RANK_1
        | {"RANK": "0", "TORCHELASTIC_USE_AGENT_STORE": "True", "TORCHELASTIC_RESTART_COUNT": "2"}
    )
    assert served and not served.keeps_store and served.attempt == 2
    assert read_environment({"MASTER_ADDR": "node1", "LOCAL_RANK": "0"}) is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"WORLD_SIZE": None}, "^WORLD_SIZE is not set, but RANK; start the processes with torchr"),
        ({"RANK": ""}, "^RANK is not set, but WORLD_SIZE"),
        ({"MASTER_ADDR": None}, "^MASTER_ADDR is not set, but RANK and WORLD_SIZE"),
        ({"LOCAL_RANK": None}, "^LOCAL_RANK is not set"),
        ({"WORLD_SIZE": "0"}, "^WORLD_SIZE=0: expected a whole number of at least 1"),
        ({"WORLD_SIZE": "two"}, "^WORLD_SIZE=two: expected a whole number"),
        ({"RANK": "2"}, "^RANK=2: expected a whole number from 0 to 1"),
        ({"RANK": "-1"}, "^RANK=-1: expected a whole number from 0 to 1"),
        ({"MASTER_PORT": "http"}, "^MASTER_PORT=http: expected a whole number from 1 to 65535"),
        ({"MASTER_PORT": "70000"}, "^MASTER_PORT=70000: expected"),
    ],
)
def test_an_environment_that_makes_no_sense(changes: dict[str, str | None], message: str) -> None:
    environ = {k: v for k, v in (RANK_1 | changes).items() if v is not None}
    with pytest.raises(UserError, match=message):
        read_environment(environ)


@pytest.fixture
def rank_1(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """This process is to be rank 1 of 2."""
    for name, value in RANK_1.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("TORCHELASTIC_USE_AGENT_STORE", raising=False)
    monkeypatch.setenv("MASTER_PORT", str(free_port()))
    return monkeypatch


def refused(device: str | None = "cpu", timeout: float = 1.0) -> str:
    """What `join` says, soon after the timeout: torch's own is many minutes."""
    start = time.monotonic()
    with pytest.raises(UserError) as caught, join(device, timeout):
        pass
    assert time.monotonic() - start < timeout + 20
    return str(caught.value)


def test_nobody_answers(rank_1: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    message = refused()
    assert message.startswith("rank 1 of 2: nobody answers at 127.0.0.1:"), message
    assert "Connection refused" in message and "MASTER_ADDR" in message
    assert capfd.readouterr().err == "", "torch would print a stack of its own"


def test_a_host_without_an_address(rank_1: pytest.MonkeyPatch) -> None:
    rank_1.setenv("MASTER_ADDR", "nowhere.invalid")
    assert "nobody answers at nowhere.invalid:" in refused()


@pytest.fixture
def mute() -> Iterator[socket.socket]:
    """A server that takes connections and says nothing."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        yield server


def test_a_server_that_is_no_store(
    rank_1: pytest.MonkeyPatch, mute: socket.socket, capfd: pytest.CaptureFixture[str]
) -> None:
    port = mute.getsockname()[1]
    rank_1.setenv("MASTER_PORT", str(port))
    message = refused()
    assert message.startswith(f"127.0.0.1:{port} answers, but not as the store of a run"), message
    mute.close()
    for thread in set(threading.enumerate()) - {threading.main_thread()}:
        thread.join(5)  # with torch's complaints


def test_a_port_that_is_taken(rank_1: pytest.MonkeyPatch, mute: socket.socket) -> None:
    rank_1.setenv("RANK", "0")
    rank_1.setenv("MASTER_PORT", str(mute.getsockname()[1]))
    message = refused()
    assert "choose another MASTER_PORT" in message and "already in use" in message, message


def test_more_ranks_than_gpus(rank_1: pytest.MonkeyPatch) -> None:
    rank_1.setattr(torch.cuda, "is_available", lambda: True)
    rank_1.setattr(torch.cuda, "device_count", lambda: 1)
    message = refused(None)
    assert message.startswith("rank 1, process 1 of this machine: it has 1 GPU"), message
    assert "--nproc-per-node 1" in message
    assert refused("cuda:3").startswith("--device cuda:3: expected cpu or cuda")


def come(timeout: float, *numbers: str) -> None:
    os.environ["RANK"] = numbers[int(os.environ["RANK"])]
    with join("cpu", timeout):
        pass


def test_ranks_that_do_not_come_are_named() -> None:
    ranks = run_ranks(come, 6.0, "0", "2", WORLD_SIZE="4")
    for rank, ended in zip((0, 2), ranks, strict=True):
        assert ended.code == 2, told(ranks)
        assert f"rank {rank} of 4: only 2 have come to 127.0.0.1:" in ended.output, told(ranks)
        assert "not rank 1, 3; are they all started" in ended.output, told(ranks)


def test_a_rank_that_comes_twice_is_named() -> None:
    ranks = run_ranks(come, 6.0, "0", "1", "1", world=3)
    assert [rank.code for rank in ranks] == [2, 2, 2], told(ranks)
    assert "only 2 have come" in ranks[0].output
    assert sum("rank 1 of 3 has come to" in rank.output for rank in ranks) == 1, told(ranks)


def start_of(counts: tuple[str, str]) -> None:
    """One of several, of which torchrun's store keeps what was said."""
    os.environ["TORCHELASTIC_RESTART_COUNT"] = counts[int(os.environ["RANK"])]
    with join("cpu", 20) as ranks:
        assert ranks.sum(torch.ones(1)).item() == 2
        print("again:", ranks.again, flush=True)
        os._exit(0)  # as one that is killed: without a word


def test_each_torchrun_counts_the_restarts_of_its_own_processes() -> None:
    """Of two machines, the one whose process fails; the other one's are started again uncounted."""
    port = free_port()
    store = TCPStore("127.0.0.1", port, is_master=True, wait_for_workers=False)
    place = {"MASTER_PORT": str(port), "TORCHELASTIC_USE_AGENT_STORE": "True"}
    for counts, again in [(("0", "0"), False), (("0", "1"), True), (("0", "1"), True)]:
        ranks = run_ranks(start_of, counts, **place)
        assert [(rank.code, rank.output) for rank in ranks] == [(0, f"again: {again}\n")] * 2, told(
            ranks
        )
    del store


def test_a_new_store_of_a_run_that_has_begun() -> None:
    """The machine that kept it is lost; the others count."""
    ranks = run_ranks(start_of, ("0", "1"))
    assert [rank.output for rank in ranks] == ["again: True\n"] * 2, told(ranks)


def twice() -> None:
    for _ in range(2):
        with join("cpu", 20) as ranks:
            assert ranks.sum(torch.ones(1)).item() == 2
            if ranks.main:
                time.sleep(0.3)  # the other is through before


def test_one_run_after_another() -> None:
    ranks = run_ranks(twice)
    assert [(rank.code, rank.output) for rank in ranks] == [(0, "")] * 2, told(ranks)


def threads() -> None:
    with join("cpu", 10):
        assert threading.active_count() == 3
    assert threading.active_count() == 1


def test_nothing_is_left_running() -> None:
    ranks = run_ranks(threads)
    assert [(rank.code, rank.output) for rank in ranks] == [(0, "")] * 2, told(ranks)
