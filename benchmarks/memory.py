"""How much memory a call takes at most beside its inputs."""

from __future__ import annotations

import ctypes
import gc
import os
import re
import resource
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from .case import Consuming, Run

USE = "benchmarks: use"  # marks a range in a profile
# What is said where memory runs out, by torch's allocator on the CPU and by C++.
EXHAUSTED = re.compile(r"DefaultCPUAllocator|not enough memory|allocate memory|bad_alloc")


# Tensors ----------------------------------------------------------------------------------------


def taken(run: Run, device: torch.device) -> int:
    """Bytes of tensors that a call has at most at a time beside its inputs, its results included.

    On CUDA the caching allocator counts them, on the CPU torch's profiler. Both see what operators
    allocate as tensors, inside of C++ too. Neither sees other memory: on the CPU the std::vectors
    of NMS and post-processing, and torchvision's, on CUDA what a library asks of the driver. For
    those there is `growth`, in a process of its own.
    """
    make, use = (run.make, run.use) if isinstance(run, Consuming) else (tuple, lambda _: run())
    return _on_cuda(make, use, device) if device.type == "cuda" else _on_cpu(make, use)


def _on_cuda(make: Callable[[], Any], use: Callable[[Any], Any], device: torch.device) -> int:
    made = make()
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    use(made)
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) - before


def _on_cpu(make: Callable[[], Any], use: Callable[[Any], Any]) -> int:
    """The profiler sees the input being made, too: else it would not know what is freed of it."""
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # it reports that it starts and stops
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities, profile_memory=True) as profiler:
        made = make()
        with torch.profiler.record_function(USE):
            result = use(made)
    del result  # held until here, so that it counts
    # profiler.events() would pair allocations with their frees and leave the pairs out.
    events = profiler.profiler.kineto_results.events()
    steps = sorted((e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]")
    start = next(e.start_ns() for e in events if e.name() == USE)
    before = sum(size for when, size in steps if when < start)
    now = most = before
    for when, size in steps:
        if when >= start:
            now += size
            most = max(most, now)
    return most - before


# The process ------------------------------------------------------------------------------------


def growth(call: Callable[[], Any]) -> tuple[int, Any]:
    """The bytes by which the process grows at most during a call, and what that returns. Nothing
    else may run in the process, and nothing large have run."""
    forget_peak()
    before = peak()
    result = call()
    return peak() - before, result


def forget_peak() -> None:
    """Sets the peak to what is resident now."""
    ctypes.CDLL(None).malloc_trim(0)  # else later calls may settle in what earlier ones have freed
    Path("/proc/self/clear_refs").write_text("5")


def peak() -> int:
    """Bytes that were resident at most, since the peak was forgotten."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(found[1]) * 1024


# Running out of it ------------------------------------------------------------------------------


def is_exhausted(error: Exception) -> bool:
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and EXHAUSTED.search(str(error)) is not None


def release() -> None:
    """Gives back what nobody holds any more."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


@contextmanager
def within_machine() -> Iterator[None]:
    """Lets an allocation fail that this machine's memory cannot hold. Without a limit Linux grants
    it, and ends the process once it is used."""
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    limits = [limit for limit in (soft, hard, _available()) if limit != resource.RLIM_INFINITY]
    resource.setrlimit(resource.RLIMIT_DATA, (min(limits, default=soft), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def _available() -> int:
    """Bytes that the machine can still give, and what the process has."""
    try:
        text = Path("/proc/meminfo").read_text() + Path("/proc/self/status").read_text()
    except OSError:
        return resource.RLIM_INFINITY
    found = [re.search(rf"{name}:\s+(\d+) kB", text) for name in ("MemAvailable", "VmData")]
    if not all(found):
        return resource.RLIM_INFINITY
    free, taken = (int(each[1]) * 1024 for each in found)
    return taken + min(free, _left_in_container())


def _left_in_container() -> int:
    """Bytes below the limit of the control group, version 2 or 1."""
    for limit, usage in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        try:
            most, now = (int(Path("/sys/fs/cgroup", name).read_text()) for name in (limit, usage))
        except (OSError, ValueError):  # there is none, or it is "max"
            continue
        return most - now
    return sys.maxsize
