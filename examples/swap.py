"""What the recipes share: one function or method for another, wherever a package looks it up.

``from package.ops import nms`` gives every module a name of its own for the function, so that
replacing it where it is defined changes nothing for those that were imported before. `swap`
replaces it in every loaded module of the package and in the classes that these define, and `undo`
puts it back, also in modules that were imported in between. It holds for the whole process, all
threads; not for functions that an object or a closure got hold of before.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

Functions = Mapping[Callable[..., Any], Callable[..., Any]]  # theirs to ours


@dataclass
class Swap:
    """What was replaced: a context manager, or something to keep and `undo` some day."""

    package: str
    functions: Functions
    replaced: list[str]  # the full names, sorted

    def undo(self) -> None:
        """Puts the package's own functions back; a second time does nothing."""
        if self.replaced:  # somebody else's swap is theirs to undo
            _exchange(self.package, {ours: theirs for theirs, ours in self.functions.items()})
        self.replaced = []

    def __enter__(self) -> Swap:
        return self

    def __exit__(self, *_: object) -> None:
        self.undo()

    def __str__(self) -> str:
        return "\n".join(f"replaced {name}" for name in self.replaced) or "nothing was replaced"


def swap(package: str, functions: Functions) -> Swap:
    """Replaces functions and methods, theirs to ours, in the loaded modules and the classes of a
    package or subpackage. Each of theirs needs one of its own: `undo` goes by that."""
    if len(set(map(id, functions.values()))) < len(functions):
        raise ValueError("swap: expected as many of our functions as of theirs, got one for two")
    return Swap(package, functions, _exchange(package, functions))


def _exchange(package: str, functions: Functions) -> list[str]:
    names = []
    for path, owner in _owners(package):
        for name, value in list(vars(owner).items()):
            # By identity: comparing arbitrary objects may do anything.
            ours = next((new for old, new in functions.items() if old is value), None)
            if ours is not None:
                setattr(owner, name, ours)
                names.append(f"{path}.{name}")
    return sorted(names)


def _owners(package: str) -> Iterator[tuple[str, Any]]:
    """The modules of a package, and the classes that they define."""
    for path, module in list(sys.modules.items()):
        if module is None or not f"{path}.".startswith(f"{package}."):
            continue
        yield path, module
        for name, value in list(vars(module).items()):
            if isinstance(value, type) and value.__module__ == path:
                yield f"{path}.{name}", value
