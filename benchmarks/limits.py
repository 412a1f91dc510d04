"""What this machine's memory can do, measured beside everything else: the limit of an operator that
computes little for the bytes it moves."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from functools import partial

import torch

from .case import Run, Work
from .clock import cache_size, seconds_of
from .report import LIMITS

COPY, READ = LIMITS  # providers that only move the bytes
MOSTLY = 4  # times the bytes written, from which on work is said to read
TIMES_CACHE, QUICK_BYTES = 8, 1 << 22


def copy_of(moved: int, device: torch.device) -> Run:
    """Copies moved / 2 bytes into memory that is in use: the time that moving `moved` bytes takes.

    Into new memory a copy takes several times as long, for the system hands out each page first.
    """
    source = torch.ones(max(1, moved // 8), device=device)
    target = torch.ones_like(source)
    return lambda: target.copy_(source)


def read_of(moved: int, device: torch.device) -> Run:
    """Looks once at so many bytes."""
    source = torch.ones(max(1, moved // 4), device=device)
    return lambda: source.amax()


def limit_of(work: Work, device: torch.device) -> tuple[str, Callable[[], Run]]:
    """Its name, and what makes it."""
    name, make = (READ, read_of) if work.read > MOSTLY * work.written else (COPY, copy_of)
    return name, partial(make, work.moved, device)


def bandwidths(device: torch.device, quick: bool) -> dict[str, float]:
    """Bytes a second, read and written, of buffers that no cache holds."""
    moved = QUICK_BYTES if quick else TIMES_CACHE * cache_size(device)
    found = {}
    for name, make in ((COPY, copy_of), (READ, read_of)):
        run = make(moved, device)
        seconds_of(run, 2)
        found[name] = float(
            f"{moved / statistics.median(seconds_of(run, 1) for _ in range(7)):.4g}"
        )
    return found
