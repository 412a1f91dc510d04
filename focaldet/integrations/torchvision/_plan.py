"""What is to be replaced in a model, found out before anything is."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from torch import nn

from ._report import Left, Replaced
from ._swap import Change, original, swap, swapped


@dataclass(frozen=True)
class Step:
    """A part of the model that gets mixins, and what these replace."""

    part: Any
    mixins: tuple[type, ...]
    rows: tuple[Replaced, ...] = ()
    added: dict[str, Any] = field(default_factory=dict)


class Plan(NamedTuple):
    steps: list[Step]
    left: list[Left]


def carry_out(model: nn.Module, steps: Iterable[Step]) -> int:
    """Has the model's parts as the steps say, and all others as they were made, whatever an earlier
    plan has changed. Returns how many parts that changes.

    Raises ValueError, and changes nothing, as `swap` does.
    """
    changes = {id(part): Change(part, (), {}) for part in swapped(model)}
    changes |= {id(step.part): Change(step.part, step.mixins, step.added) for step in steps}
    return swap("accelerate", changes.values())


def overridden(part: Any, base: type, methods: Iterable[str]) -> list[str]:
    """Which methods of a part are not its base's, by its class or by an attribute of its own."""
    cls = original(part)
    return [
        name
        for name in methods
        if name in vars(part) or getattr(cls, name, None) is not getattr(base, name)
    ]
