"""The short set: every operator at sizes that take milliseconds, for CI to compare with a stored
result: that of its SIMD level, since with half the lanes ours take up to twice as long, and their
peers do not. `python -m benchmarks --short --json benchmarks/results/short/LEVEL.json` stores one
anew; `focaldet env` says which level that is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from .case import Case
from .inputs import Setup
from .measure import measure
from .report import Row
from .sized import CLUSTERED, Size, cases

# Two threads wait for each other, and where a neighbour has one's core, for a time slice: 8 ms.
THREADS = 1
# Neighbours come and go within seconds: so every case is timed at several times.
PASSES = 3
ROUNDS = 40
SIZES = {
    "focal_loss": (Size(128),),
    "softmax_focal_loss": (Size(128),),
    "anchors": (Size(256),),
    "match": (Size(128),),
    "nms": (Size(boxes=1000), Size(boxes=1000, layout=CLUSTERED)),
    "boxes": (Size(128),),
    "retinanet_loss": (Size(128),),
    "postprocess": (Size(128), Size(128, logits=-4.3)),
}


def groups(ops: Sequence[str], setup: Setup, wanted: Sequence[str] | None) -> Iterator[list[Row]]:
    """The rows of each case, with the rounds of all passes. Of a loss, both ways together."""
    # Quick: turns of a millisecond. The shorter, the more of them nobody interrupts.
    setup = replace(setup, quick=True)
    found: dict[tuple[str, str], dict[str, Row]] = {}
    for _ in range(PASSES):
        for op in ops:
            for row in one_pass(op, setup, wanted):
                first = found.setdefault((op, row.case), {}).setdefault(row.provider, row)
                if first is not row:
                    add(first, row)
    for rows in found.values():
        yield list(rows.values())


def add(first: Row, row: Row) -> None:
    """The rounds of another pass. What failed in one of them has no times."""
    whole = first.seconds and row.seconds
    first.note = first.note if whole or not first.seconds else row.note
    first.seconds = first.seconds + row.seconds if whole else []
    first.limit = first.limit + row.limit if whole else []


def one_pass(op: str, setup: Setup, wanted: Sequence[str] | None) -> Iterator[Row]:
    for size in SIZES[op]:
        for case in cases(op, setup, size):
            case = replace(case, ways=case.ways[-1:])
            yield from measure(op, case, setup, wanted or default(case), ROUNDS)


def default(case: Case) -> tuple[str, str]:
    """One peer is enough for a ratio; the twins are slow, and tests see what is right."""
    return "focaldet", "torchvision" if "torchvision" in case.providers else "reference"
