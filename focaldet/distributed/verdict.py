"""From what the ranks say of themselves to who of them is gone, or hangs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass

STARTING = "starting"  # until the first mark: it reads its data, and builds its model


@dataclass
class Record:
    """What a rank says of itself, again and again. Times are in seconds."""

    limit: float  # how long its phase may take while others wait for it
    beat: int = 0  # how many times it has said something
    step: int = 0
    phase: str = STARTING
    phases: int = 0  # of this step, with the present one
    idle: float = 0.0  # since the latest mark
    patient: bool = True  # the phase may take as long as it likes
    left: bool = False  # it is through: nobody need wait for it
    error: str | None = None  # why it ends

    def encode(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def decode(cls, text: bytes) -> Record:
        return cls(**json.loads(text))

    @property
    def place(self) -> str:
        return f"step {self.step} ({self.phase})"


@dataclass
class Seen:
    """A rank's latest record, as another rank has it."""

    record: Record
    silent: float = 0.0  # seconds since it came


Everyone = Mapping[int, Seen]  # by rank


@dataclass(frozen=True)
class Verdict:
    """Why the run cannot go on."""

    message: str
    culprits: tuple[int, ...] = ()


def failed(seen: Everyone) -> Verdict | None:
    """A rank that says itself why it ends."""
    for rank, other in sorted(seen.items()):
        if other.record.error:
            return Verdict(other.record.error, (rank,))
    return None


def gone(others: Everyone, longest: float, step: int) -> Verdict | None:
    """Ranks that have not been heard of for more than `longest` seconds, waited for in `step`."""
    ranks = [rank for rank, o in others.items() if o.silent > longest and not o.record.left]
    if not ranks:
        return None
    seconds = min(others[rank].silent for rank in ranks)
    step = max([step, *(others[rank].record.step for rank in ranks)])  # what they said may be old
    who = _named(ranks, "is gone", "are gone")
    return Verdict(
        f"{who} in step {step}: killed or frozen, not heard of for {seconds:.0f} s", tuple(ranks)
    )


def hanging(seen: Everyone) -> Verdict | None:
    """The ranks that the others wait for, if nobody makes progress any more.

    As long as one does, or has asked for patience, it may be the one that the others wait for. For
    a process by itself nobody waits.
    """
    here = [other.record for other in seen.values() if not other.record.left]
    if (
        len(seen) < 2
        or not here
        or any(record.patient or record.idle <= record.limit for record in here)
    ):
        return None
    ranks = furthest_behind(seen)
    seconds = min(seen[rank].record.idle for rank in ranks)
    who, place = _named(ranks, "hangs", "hang"), seen[ranks[0]].record.place
    return Verdict(
        f"{who} in {place}: no progress for {seconds:.0f} s; raise --timeout for slow steps",
        tuple(ranks),
    )


def furthest_behind(seen: Everyone) -> list[int]:
    """By step, and by phases within it. Of several, any may be waiting for another of them."""
    here = {r: (s.record.step, s.record.phases) for r, s in seen.items() if not s.record.left}
    return [rank for rank, done in here.items() if done == min(here.values())]


def _named(ranks: list[int], one: str, many: str) -> str:
    numbers = ", ".join(map(str, ranks))
    return f"ranks {numbers} {many}" if len(ranks) > 1 else f"rank {numbers} {one}"
