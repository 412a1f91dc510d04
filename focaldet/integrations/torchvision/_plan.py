"""What is to be replaced in a model, found out before anything is."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from ._report import Left, Replaced
from ._swap import Swapped, original, swap


@dataclass(frozen=True)
class Step:
    """A part of the model that gets mixins, and what these replace."""

    part: Any
    mixins: tuple[type, ...]
    rows: tuple[Replaced, ...] = ()
    added: dict[str, Any] = field(default_factory=dict)

    def take(self) -> bool:
        """False if it was taken before."""
        if isinstance(self.part, Swapped):
            return False
        swap(self.part, *self.mixins, **self.added)
        return True


class Plan(NamedTuple):
    steps: list[Step]
    left: list[Left]


def overridden(part: Any, base: type, methods: Iterable[str]) -> list[str]:
    """Which methods of a part are not its base's, by its class or by an attribute of its own."""
    cls = original(part)
    return [
        name
        for name in methods
        if name in vars(part) or getattr(cls, name, None) is not getattr(base, name)
    ]
