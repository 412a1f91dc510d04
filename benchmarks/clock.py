"""How long one call takes: on the CPU and on CUDA, with warm caches and with cold ones.

Warm: the call's own data lie where calls of it have left them. Cold: before every call the last
level of cache is filled with something else, off the clock. The truth in a program lies between.

torch.utils.benchmark lends its timer, which waits for the GPU. Its Timer does not serve: it calls
twice before every measurement, which in rounds of one slow call each triples the time.
"""

from __future__ import annotations

import statistics
import timeit
from collections.abc import Callable
from functools import partial
from math import ceil
from pathlib import Path
from typing import Any

import torch
from torch.utils.benchmark import timer

from .case import Consuming, Run

WARM, COLD = CACHES = ("warm", "cold")
SHORTEST = 5e-3  # seconds; faster calls are repeated until they add up to this
MOST_FLUSHED = 5  # calls a round with cold caches, where each waits for a flush
CACHE = 64 << 20  # bytes, where the system does not say
TIMES_CACHE = 4  # the flush's buffer, in sizes of the cache
BUSY = 3e-3  # seconds of flushes ahead of a call: enough for the host to launch 500 kernels
LAUNCH_BOUND = 1.5  # times the GPU's seconds

Clock = Callable[[Run, int], float]  # seconds of one call, the mean of so many


def clock(device: torch.device, cache: str) -> Clock:
    if device.type == "cuda":
        return partial(_behind, device, _busy(device)) if cache == COLD else partial(_warm, device)
    return partial(_cold, _flush(device)) if cache == COLD else seconds_of


def calls_for(once: float, cache: str, quick: bool) -> int:
    """How often to call what takes `once` seconds, in one round."""
    calls = max(1, round((SHORTEST / 5 if quick else SHORTEST) / once))
    return min(calls, MOST_FLUSHED) if cache == COLD else calls


def _mean(run: Run, calls: int, seconds: Callable[[Run], float]) -> float:
    """Of so many calls. What a call uses up is made before it and gone when the next is made."""
    return sum(seconds(_ready(run)) for _ in range(calls)) / calls


def _ready(run: Run) -> Run:
    return partial(run.use, run.make()) if isinstance(run, Consuming) else run


# The CPU ----------------------------------------------------------------------------------------


def seconds_of(run: Run, calls: int) -> float:
    """With warm caches. (Also right on CUDA, where it adds the time of waiting for the GPU.)"""
    if isinstance(run, Consuming):
        return _mean(run, calls, _once)
    return timeit.timeit(run, timer=timer, number=calls) / calls


def _once(use: Run) -> float:
    return timeit.timeit(use, timer=timer, number=1)


def _cold(flush: Run, run: Run, calls: int) -> float:
    def seconds(use: Run) -> float:
        flush()
        return _once(use)

    return _mean(run, calls, seconds)


def cache_size(device: torch.device) -> int:
    """Bytes of the last level of cache."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).L2_cache_size or CACHE
    sizes = [CACHE // 2]
    for path in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"):
        number, unit = path.read_text().strip()[:-1], path.read_text().strip()[-1]
        sizes.append(int(number) << {"K": 10, "M": 20}.get(unit, 0))
    return max(sizes)


def _flush(device: torch.device) -> Run:
    buffer = torch.ones(TIMES_CACHE * cache_size(device) // 4, device=device)
    return lambda: buffer.zero_()


# CUDA: between events, which see the GPU's own time ---------------------------------------------


def _warm(device: torch.device, run: Run, calls: int) -> float:
    """Calls that follow each other: where the host launches slower than the GPU works, its time."""
    if isinstance(run, Consuming):
        return _mean(run, calls, partial(_between_events, device))

    def all_calls() -> None:
        for _ in range(calls):
            run()

    return _between_events(device, all_calls) / calls


def _behind(device: torch.device, flush: Run, run: Run, calls: int) -> float:
    """Calls with cold caches, each launched while the flush keeps the GPU busy."""

    def seconds(use: Run) -> float:
        flush()
        return _between_events(device, use)

    return _mean(run, calls, seconds)


def _busy(device: torch.device) -> Run:
    """Flushes for as long as BUSY."""
    flush = _flush(device)
    once = statistics.median(_between_events(device, flush) for _ in range(3))
    times = ceil(BUSY / once)

    def repeated() -> None:
        for _ in range(times):
            flush()

    return repeated


def _between_events(device: torch.device, use: Run) -> float:
    with torch.cuda.device(device):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        use()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / 1e3


def launch_bound(device: torch.device, run: Run, quick: bool) -> str:
    """A remark where the host cannot keep up: calls that follow each other take longer than the
    GPU works. Calls that wait for the GPU themselves take as long either way. Nothing is said of
    those whose input is made for every call: they do not follow each other."""
    if isinstance(run, Consuming):
        return ""
    behind = clock(device, COLD)
    gpu = statistics.median(behind(run, 1) for _ in range(3))
    host = seconds_of(run, calls_for(gpu, WARM, quick))
    if host <= LAUNCH_BOUND * gpu:
        return ""
    return (
        f"launch-bound: back to back a call takes {host * 1e6:.0f} µs, {gpu * 1e6:.0f} on the GPU"
    )


def first_call(run: Run) -> tuple[Any, float]:
    """What it gives, and its seconds."""
    start = timer()
    result = run()
    return result, timer() - start
