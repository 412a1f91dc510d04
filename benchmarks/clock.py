"""How long one call takes: on the CPU and on CUDA, with warm caches and with cold ones.

Warm: the call's own data lie where calls of it have left them. Cold: before every call the last
level of cache is filled with something else, off the clock. The truth in a program lies between.

torch.utils.benchmark lends its timer, which waits for the GPU. Its Timer does not serve: it calls
twice before every measurement, which in rounds of one slow call each triples the time.
"""

from __future__ import annotations

import statistics
import timeit
from collections.abc import Callable, Iterator
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
LONGEST_QUEUE = 32  # flushes ahead of a call
LAUNCH_BOUND = 1.5  # times the GPU's seconds

Clock = Callable[[Run, int], float]  # seconds of one call, the mean of so many


def clock(device: torch.device, cache: str) -> Clock:
    if device.type == "cuda":
        return partial(_on_cuda, device, _flush(device) if cache == COLD else None)
    return partial(_cold, _flush(device)) if cache == COLD else seconds_of


def calls_for(once: float, cache: str, quick: bool) -> int:
    """How often to call what takes `once` seconds, in one round."""
    calls = max(1, round((SHORTEST / 5 if quick else SHORTEST) / once))
    return min(calls, MOST_FLUSHED) if cache == COLD else calls


def _made(run: Run, calls: int) -> Iterator[Run]:
    """The run so often, its input made off the clock, one at a time."""
    for _ in range(calls):
        yield partial(run.use, run.make()) if isinstance(run, Consuming) else run


# The CPU ----------------------------------------------------------------------------------------


def seconds_of(run: Run, calls: int) -> float:
    """With warm caches. (Also right on CUDA, where it adds the time of waiting for the GPU.)"""
    if not isinstance(run, Consuming):
        return timeit.timeit(run, timer=timer, number=calls) / calls
    return sum(timeit.timeit(use, timer=timer, number=1) for use in _made(run, calls)) / calls


def _cold(flush: Run, run: Run, calls: int) -> float:
    total = 0.0
    for use in _made(run, calls):
        flush()
        total += timeit.timeit(use, timer=timer, number=1)
    return total / calls


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


# CUDA -------------------------------------------------------------------------------------------


def _on_cuda(device: torch.device, flush: Run | None, run: Run, calls: int) -> float:
    """By events, which see the GPU's own time. Warm: around all calls, as they follow each other.
    Cold: around each, behind a flush that keeps the GPU busy while the host launches the call."""
    if flush is None and not isinstance(run, Consuming):
        return _between_events(device, lambda: [run() for _ in range(calls)]) / calls
    ahead = 1 if flush is None else _ahead(device, flush, run)
    total = 0.0
    for use in _made(run, calls):
        for _ in range(ahead if flush else 0):
            flush()
        total += _between_events(device, use)
    return total / calls


def _between_events(device: torch.device, use: Run) -> float:
    with torch.cuda.device(device):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        use()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / 1e3


def _ahead(device: torch.device, flush: Run, run: Run) -> int:
    """Flushes that keep the GPU busy for as long as the host needs to launch the call."""
    once = statistics.median(_between_events(device, flush) for _ in range(3))
    return min(LONGEST_QUEUE, max(1, ceil(2 * host_seconds(run) / once)))


def host_seconds(run: Run) -> float:
    """Seconds until the host is done with a call, which need not be when the GPU is."""
    (use,) = _made(run, 1)
    timer()  # waits for the GPU
    start = timeit.default_timer()
    use()
    return timeit.default_timer() - start


def launch_bound(device: torch.device, run: Run, quick: bool) -> str:
    """A remark where the host cannot keep up: calls that follow each other take longer than the
    GPU works. Calls that wait for the GPU themselves take as long either way."""
    behind_flush = partial(_on_cuda, device, _flush(device))
    gpu = statistics.median(behind_flush(run, 1) for _ in range(3))
    calls = calls_for(gpu, WARM, quick)
    host = seconds_of(run, calls)
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
