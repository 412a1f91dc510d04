"""Changes what an object does by changing its class, and nothing else of it.

The object stays the same, with the same attributes, parameters, hooks and place in its owner; its
new class has mixins with the methods that are replaced before the old class. So isinstance still
holds, a subclass keeps what it defines, and to undo it is to put the old class back. The class is
made on demand, which pickle could not find again: it stores what the class is made of.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import Any, NamedTuple, SupportsIndex

import torch

ADDED = "_focaldet_"  # how attributes begin that a mixin needs on the object


class Swapped:
    """In the bases of every class that `swap` has made."""

    _made_of: tuple[type, ...]  # the mixins and, last, the old class

    def __reduce_ex__(self, protocol: SupportsIndex) -> str | tuple[Any, ...]:
        reduced = super().__reduce_ex__(max(int(protocol), 2))
        return reduced if _extended(self) else (_blank, type(self)._made_of, *reduced[2:])


@cache
def _combined(*parts: type) -> type:
    *mixins, base = parts
    body = {"_made_of": parts, "__module__": base.__module__, "__doc__": base.__doc__}
    return type(f"Accelerated{base.__name__}", (*mixins, Swapped, base), body)


def _extended(part: Any) -> bool:
    """Whether somebody derived its class from ours, as parametrizations and fully_shard do."""
    return isinstance(part, Swapped) and "_made_of" not in vars(type(part))


def _blank(*parts: type) -> Any:
    made: Any = _combined(*parts)
    return made.__new__(made)


class Change(NamedTuple):
    """A part that is to have these mixins' methods before those of the class it was made with,
    and `added` as attributes; without mixins, that class again."""

    part: Any
    mixins: tuple[type, ...]
    added: dict[str, Any]


def swap(caller: str, changes: Iterable[Change]) -> int:
    """Makes the changes that were not made before; returns how many. One per part.

    Raises ValueError, and changes nothing, where a class cannot be derived from, or where somebody
    else's class would be lost.
    """
    new = [change for change in changes if not _made(change)]
    # A class may refuse to be derived from: all are made before the first part gets one.
    classes = [_class(caller, change) for change in new]
    for (part, _, added), cls in zip(new, classes, strict=True):
        for name in [name for name in vars(part) if name.startswith(ADDED)]:
            del vars(part)[name]
        vars(part).update({ADDED + name: value for name, value in added.items()})
        object.__setattr__(part, "__class__", cls)  # the part's own might refuse it
    return len(new)


def _made(change: Change) -> bool:
    part, mixins, added = change
    has = type(part)._made_of[:-1] if isinstance(part, Swapped) else ()
    return has == mixins and all(
        vars(part).get(ADDED + name) == value for name, value in added.items()
    )


def _class(caller: str, change: Change) -> type:
    """The one that the part gets."""
    part, mixins, _ = change
    if _extended(part):
        raise ValueError(
            f"{caller}: the class {type(part).__name__} was made of an accelerated one (by a "
            "parametrization, fully_shard or the like); undo that first. Nothing was changed."
        )
    base = original(part)
    try:
        return _combined(*mixins, base) if mixins else base
    except Exception as error:  # an __init_subclass__ or a metaclass may raise anything
        raise ValueError(
            f"{caller}: the class {base.__module__}.{base.__qualname__} does not let others derive "
            f"from it ({type(error).__name__}: {error}). Nothing was changed. `patch_ops()` "
            "changes no class."
        ) from error


def original(part: Any) -> type:
    """The class that the part had."""
    return type(part)._made_of[-1] if isinstance(part, Swapped) else type(part)


def swapped(model: torch.nn.Module) -> list[Any]:
    """The parts of the model whose class is ours."""
    parts: dict[int, Any] = {}
    for module in model.modules():
        for part in (module, *vars(module).values()):  # matchers are no modules
            if isinstance(part, Swapped):
                parts[id(part)] = part
    return list(parts.values())


def undo(model: torch.nn.Module) -> int:
    """Gives every part of the model its class back; returns how many had another. Raises as
    `swap` does."""
    return swap("restore", [Change(part, (), {}) for part in swapped(model)])
