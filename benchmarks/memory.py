"""How much memory a call takes at most, as its process grows: nothing else may run in that."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any


def growth(call: Callable[[], Any]) -> tuple[int, Any]:
    """The bytes by which the process grows at most during a call, and what that returns."""
    ctypes.CDLL(None).malloc_trim(0)  # else it may settle in what earlier calls have freed
    Path("/proc/self/clear_refs").write_text("5")  # sets the peak to what is resident now
    before = peak()
    result = call()
    return peak() - before, result


def peak() -> int:
    """Bytes that were resident at most."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(found[1]) * 1024
