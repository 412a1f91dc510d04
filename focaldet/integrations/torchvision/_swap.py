"""Changes what an object does by changing its class, and nothing else of it.

The object stays the same, with the same attributes, parameters, hooks and place in its owner; its
new class has mixins with the methods that are replaced before the old class. So isinstance still
holds, a subclass keeps what it defines, and to undo it is to put the old class back. The class is
made on demand, which pickle could not find again: it stores what the class is made of.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch

ADDED = "_focaldet_"  # how attributes begin that a mixin needs on the object


class Swapped:
    """In the bases of every class that `swap` has made."""

    _made_of: tuple[type, ...]  # the mixins and, last, the old class

    def __reduce_ex__(self, protocol: int) -> tuple[Any, ...]:
        reduced = super().__reduce_ex__(max(protocol, 2))
        return reduced if _extended(self) else (_blank, type(self)._made_of, *reduced[2:])


@cache
def _combined(*parts: type) -> type:
    *mixins, base = parts
    body = {"_made_of": parts, "__module__": base.__module__, "__doc__": base.__doc__}
    return type(f"Accelerated{base.__name__}", (*mixins, Swapped, base), body)


def _extended(part: Swapped) -> bool:
    """Whether somebody derived its class from ours, as parametrizations and fully_shard do."""
    return "_made_of" not in vars(type(part))


def _blank(*parts: type) -> Any:
    made = _combined(*parts)
    return made.__new__(made)


def swap(part: Any, *mixins: type, **added: Any) -> None:
    """Puts the mixins' methods before those of the part's class; `added` become attributes."""
    for name, value in added.items():
        part.__dict__[ADDED + name] = value
    part.__class__ = _combined(*mixins, type(part))


def original(part: Any) -> type:
    """The class that the part had."""
    return type(part)._made_of[-1] if isinstance(part, Swapped) else type(part)


def undo(model: torch.nn.Module) -> int:
    """Gives every part of the model its class back; returns how many had another.

    Raises ValueError, and changes nothing, if that would take more than ours from a part.
    """
    parts: dict[int, Any] = {}
    for module in model.modules():
        for part in (module, *vars(module).values()):  # matchers are no modules
            if isinstance(part, Swapped):
                parts[id(part)] = part
    if extended := [part for part in parts.values() if _extended(part)]:
        raise ValueError(
            f"restore: the class {type(extended[0]).__name__} was made of an accelerated one (by a "
            "parametrization, fully_shard or the like); undo that first. Nothing was changed."
        )
    for part in parts.values():
        part.__class__ = original(part)
        for name in [name for name in vars(part) if name.startswith(ADDED)]:
            del part.__dict__[name]
    return len(parts)
