"""A trace of a few steps: what ran when, on the CPU and the GPU."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from torch.profiler import profile, schedule

from ..files import replacing

SETTLING, RECORDED = 5, 5  # steps: the first ones allocate, compile and choose algorithms


@contextmanager
def trace(file: Path | None) -> Iterator[Callable[[], None]]:
    """Records steps and writes them to `file`, for chrome://tracing or https://ui.perfetto.dev.

    To be called after each step. If the steps end before enough were recorded, those that there are
    are written.
    """
    if file is None:
        yield lambda: None
        return

    def write(recorded: profile) -> None:
        with replacing(file) as temporary:
            recorded.export_chrome_trace(str(temporary))

    plan = schedule(wait=SETTLING - 1, warmup=1, active=RECORDED, repeat=1)
    with profile(schedule=plan, on_trace_ready=write, acc_events=True) as recorder:
        yield recorder.step
