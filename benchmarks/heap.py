"""Whether freed memory stays in the process, which on the CPU can cost more than the work.

malloc reads its settings when a process starts, so another heap means another process.
"""

from __future__ import annotations

import os

# Keeps freed memory in the process, for all providers alike.
HEAP_KEPT = {"MALLOC_MMAP_THRESHOLD_": "4294967296", "MALLOC_TRIM_THRESHOLD_": "17179869184"}
HEAPS = {
    "kept": "kept: freed memory stays in the process",
    "default": (
        "default malloc: large buffers go back to the system, and touching new pages can cost\n"
        "         more than the work. To keep them: --heap kept, which sets "
        + " ".join(f"{name}={value}" for name, value in HEAP_KEPT.items())
    ),
}


def current() -> str:
    """This process's."""
    return "kept" if all(name in os.environ for name in HEAP_KEPT) else "default"


def environment(heap: str) -> dict[str, str]:
    """The environment of a process with that heap."""
    found = {name: value for name, value in os.environ.items() if name not in HEAP_KEPT}
    return found | HEAP_KEPT if heap == "kept" else found
