"""What `accelerate` says it has done."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


class Replaced(NamedTuple):
    where: str  # the path within the model
    by: str  # what does the work now
    saves: str  # what that saves


class Left(NamedTuple):
    where: str
    why: str


@dataclass(frozen=True)
class Report:
    """What of a model is replaced, what was left as it is, and why. Prints as a table.

    model: the name of its class. replaced: all that is in place now. left: what could have been
    replaced in another model of its kind, and what never is. new: how many parts this call changed;
    0 if all had been done before.
    """

    model: str
    replaced: tuple[Replaced, ...]
    left: tuple[Left, ...]
    new: int

    def __str__(self) -> str:
        lines = [f"{self.model}: " + ("accelerated" if self.new else "nothing more to do")]
        lines += _columns([("replaced", "by", "saves"), *self.replaced])
        if self.left:
            lines += ["", *_columns([("left", "why"), *self.left])]
        return "\n".join(lines)


def _columns(rows: list[tuple[str, ...]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
