"""SIGTERM as a question that the training loop answers between two steps."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Stop:
    """Whether this process was asked to end."""

    requested: bool = False

    def _ask(self, number: int, frame: FrameType | None) -> None:
        # A second one is no other question: systemd, or a shell, sends it to a whole group, and
        # torchrun to its processes once more. Ctrl-C and SIGKILL do not ask.
        self.requested = True


@contextmanager
def on_sigterm() -> Iterator[Stop]:
    """Notes SIGTERM, as schedulers and torchrun send it, in what is returned. Outside of the main
    thread, where Python sets no handlers, nothing is noted."""
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = signal.signal(signal.SIGTERM, stop._ask)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGTERM, before)
