"""Into the group of the run's processes, and out of it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist

from .ranks import Ranks, alone

# A collective waits for as long as the watch does: it is the watch that ends a run, with a reason.
NEVER = timedelta(days=30)


@contextmanager
def join(device: str | None = None, timeout: float = 45) -> Iterator[Ranks]:
    """The ranks of the run that torchrun has started this process in; one by itself elsewhere."""
    if "RANK" not in os.environ:
        yield alone(device)
        return
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    cuda = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu")).type == "cuda"
    own = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if cuda else torch.device("cpu")
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if cuda else "cpu:gloo", rank=rank, world_size=world, timeout=NEVER
    )
    try:
        yield Ranks(rank, world, own)
    finally:
        dist.destroy_process_group()
