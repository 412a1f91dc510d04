"""How many instructions a kernel issues for each 16 bytes that it stores, and what that allows.

A kernel that streams is bound by memory or by its instructions. The bytes are known; the
instructions are those of the shortest way round a loop that stores 16 bytes, in the machine code:
for the focal losses, a pack of background, as nearly all packs are.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

INSTRUCTION = re.compile(r"/\*([0-9a-f]{4,})\*/\s+(?:(@!?U?P\d)\s+)?([A-Z][\w.]*)([^;]*);")


class Gpu(NamedTuple):
    """Peak rates. Instructions: one warp instruction a clock on each of an SM's four schedulers."""

    name: str
    processors: int
    clock: float  # Hz, boost
    copy: float  # bytes a second of a device copy, reading and writing

    @property
    def instructions(self) -> float:
        """By thread, a second."""
        return self.processors * 4 * 32 * self.clock


H100 = Gpu("H100", 132, 1.98e9, 3.0e12)


def shortest_loop(code: str) -> int:
    """Instructions of the shortest way round a loop past a 16-byte store to global memory; 0 if
    there is no such loop."""
    rows = [(int(m[1], 16), m[2], m[3], m[4]) for m in INSTRUCTION.finditer(code)]
    index = {address: i for i, (address, *_) in enumerate(rows)}
    follow: list[list[int]] = []
    for i, (_, predicate, name, operands) in enumerate(rows):
        target = re.search(r"0x([0-9a-f]+)", operands) if name.startswith("BRA") else None
        jump = [index[int(target[1], 16)]] if target and int(target[1], 16) in index else []
        ends = name.startswith(("BRA", "EXIT", "RET")) and predicate is None
        follow.append(jump + ([i + 1] if not ends and i + 1 < len(rows) else []))
    stores = {i for i, row in enumerate(rows) if row[2].startswith("STG") and "128" in row[2]}
    if not stores:
        return 0
    backward = [(i, j) for i, nexts in enumerate(follow) for j in nexts if j <= i]
    ways = [way for bottom, top in backward if (way := _way(follow, stores, top, bottom))]
    return min(ways, default=0)


def _way(follow: Sequence[Sequence[int]], stores: set[int], start: int, stop: int) -> int:
    """Instructions from one to another, both included, past a store; 0 if there is no way."""
    first = (start, start in stores)
    seen, queue = {first}, deque([(first, 1)])
    while queue:
        (at, stored), length = queue.popleft()
        if at == stop and stored:
            return length
        for after in follow[at]:
            state = (after, stored or after in stores)
            if start <= after <= stop and state not in seen:  # a loop's body lies between its ends
                seen.add(state)
                queue.append((state, length + 1))
    return 0


def bound(loop: int, gpu: Gpu = H100) -> float:
    """The share of a copy's bandwidth that a kernel reaches at most, which reads 16 bytes and
    writes 16 each time round the loop."""
    return min(1.0, 32 / loop * gpu.instructions / gpu.copy)
