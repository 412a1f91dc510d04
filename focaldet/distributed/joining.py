"""Into the group of the run's processes, and out of it, whatever happens in between."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist

from ..errors import EndedElsewhere, UserError
from .environment import Place, read_environment
from .ranks import Ranks, alone
from .rendezvous import Meeting, arrive, connect
from .verdict import STARTING
from .watch import Watch

# A collective operation waits as long as it takes: it is the watch that ends a run, and says why.
NEVER = timedelta(days=30)
TIMEOUT = 45.0  # seconds; with what it takes to notice, less than a minute
LINGER = 10  # seconds that a rank keeps the store for the others after it has failed

_runs = itertools.count()  # that this process has joined, as every process of them has


@contextmanager
def join(device: str | None = None, timeout: float = TIMEOUT) -> Iterator[Ranks]:
    """The ranks of the run that torchrun has started this process in; elsewhere it is by itself.

    Args:
        device: "cpu" or "cuda"; None: "cuda" where there is one. Ranks on GPUs have one each.
        timeout: seconds that the ranks wait for each other to come; and then, for a sign of life,
            or for progress.

    If a rank is killed, is frozen or hangs, every other one ends within the timeout and a few
    seconds, and says which it was and in which step; see `Watch`. If a rank raises, so do the
    others, with its message. Raises `UserError` if the environment makes no sense, or the ranks do
    not find each other.
    """
    place = read_environment()
    if place is None:
        yield alone(device)
        return
    own = _device(place, device)
    deadline = time.monotonic() + timeout
    prefix = f"focaldet/{next(_runs)}"
    store = dist.PrefixStore(prefix, connect(place, deadline, keep=place.keeps_store))
    keeper = f"{'torchrun' if place.served else 'rank 0'} at {place.address}"
    watch = Watch(store, keeper, place.rank, place.world, timeout)

    def greet(meeting: Meeting) -> None:
        watch.store = dist.PrefixStore(meeting.name, store)
        watch.tell()

    meeting = arrive(store, place, deadline, greet)
    watch.start()
    failed = True
    try:
        with _blamed(watch, place):
            watch.at(None, "connecting")  # what may be in the way has no timeout of its own
            dist.init_process_group(
                "cpu:gloo,cuda:nccl" if own.type == "cuda" else "gloo",
                store=dist.PrefixStore(
                    f"{prefix}/{meeting.name}", connect(place, deadline, keep=False)
                ),
                rank=place.rank,
                world_size=place.world,
                timeout=NEVER,
            )
            # Who is through before the others have found each other would leave them looking.
            dist.all_reduce(torch.zeros(1))
            if own.type == "cuda":  # NCCL connects at its first use
                dist.all_reduce(torch.zeros(1, device=own))
                torch.cuda.synchronize(own)
            watch.at(None, STARTING, patient=True)
            yield Ranks(place.rank, place.world, own, watch, meeting.again)
        failed = False
    finally:
        if dist.is_initialized() and not (failed and own.type == "cuda"):  # NCCL's may wait
            dist.destroy_process_group()
        if place.keeps_store:
            watch.wait_for_the_others(LINGER if failed else math.inf)


@contextmanager
def _blamed(watch: Watch, place: Place) -> Iterator[None]:
    """Tells the other ranks why this one ends; what they ended by is raised as a UserError."""
    try:
        yield
    except EndedElsewhere:
        watch.leave()
        raise
    except Exception as error:
        culprit = watch.culprit() if _of_connection(error) else None
        if culprit:
            watch.leave(culprit)
            raise UserError(culprit) from error
        text = " ".join(str(error).split()) or type(error).__name__
        watch.leave(f"rank {place.rank} failed in {watch.record.place}: {text}")
        raise
    except BaseException as end:
        done = isinstance(end, SystemExit) and not end.code
        watch.leave(None if done else f"rank {place.rank} was interrupted in {watch.record.place}")
        raise
    watch.leave()


def _of_connection(error: Exception) -> bool:
    """Whether it is how gloo and NCCL say that another process is gone."""
    marks = ("gloo", "nccl", "connection closed by peer", "connection reset by peer")
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(mark in text for mark in marks)


def _device(place: Place, device: str | None) -> torch.device:
    name = device or ("cuda" if torch.cuda.is_available() else "cpu")
    if name == "cpu":
        return torch.device(name)
    if name != "cuda":
        raise UserError(f"--device {name}: expected cpu or cuda, where each rank takes its own GPU")
    if place.local_rank >= (gpus := torch.cuda.device_count()):
        raise UserError(
            f"rank {place.rank}, process {place.local_rank} of this machine: it has {gpus} GPU"
            f"{'s' * (gpus != 1)}, numbered from 0; start as many processes as there are GPUs "
            f"(torchrun --nproc-per-node {max(1, gpus)}), or give --device cpu"
        )
    torch.cuda.set_device(place.local_rank)
    return torch.device("cuda", place.local_rank)
