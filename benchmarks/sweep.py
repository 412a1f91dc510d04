"""Sweeps: an operator's time and memory against one size, all else equal."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch

from .case import TOLERANCE
from .inputs import Setup
from .report import Row
from .sized import CLUSTERED, OPS, UNIFORM, Size, Timing

SIDES = (64, 128, 256, 512, 1024)  # of images: 768 to 196,416 anchors
CLASSES = (1, 3, 10, 30, 80, 365, 1203)  # Objects365 and LVIS have the last two
BOXES = (128, 512, 2048, 8192, 32768)
MEANS = (-8.5, -6.5, -5.0, -4.0, -3.0)  # of the logits: few to half of them are candidates

BY_SIDE = [Size(side) for side in SIDES]
BY_CLASSES = [Size(256, classes=classes) for classes in CLASSES]
# By axis and operator. Every operator can be swept over dtype and threads, too.
SIZES: dict[str, dict[str, list[Size]]] = {
    "N": {
        **dict.fromkeys(OPS, BY_SIDE),
        "nms": [Size(boxes=n, layout=name) for name in (UNIFORM, CLUSTERED) for n in BOXES],
    },
    "K": {"focal_loss": BY_CLASSES, "postprocess": BY_CLASSES},
    "boxes": {"match": [Size(boxes=n) for n in (1, 4, 16, 64, 256, 1024)]},
    "candidates": {"postprocess": [Size(logits=mean) for mean in MEANS]},
}
AXES = (*SIZES, "dtype", "threads")


def ops(axis: str) -> Sequence[str]:
    """The operators that can be swept over it."""
    return tuple(SIZES.get(axis, OPS))


def rows(op: str, axis: str, setup: Setup, timing: Timing) -> Iterator[list[Row]]:
    fixed = Size(64 if setup.quick else 512, boxes=2048 if op == "nms" else 20)
    if axis == "dtype":
        for dtype in TOLERANCE:
            name = str(dtype).removeprefix("torch.")
            yield from timing.rows(op, replace(setup, dtype=dtype), fixed, dtype=name)
    elif axis == "threads":
        before = torch.get_num_threads()
        try:
            for threads in thread_counts(os.cpu_count() or 1):
                torch.set_num_threads(threads)
                yield from timing.rows(op, setup, fixed, threads=threads)
        finally:
            torch.set_num_threads(before)
    else:
        for size in SIZES[axis][op][: 2 if setup.quick else None]:
            yield from timing.rows(op, setup, size)


def thread_counts(cores: int) -> list[int]:
    """The powers of two up to the number of cores, and that."""
    return sorted({2**i for i in range(cores.bit_length()) if 2**i <= cores} | {cores})
