"""examples/swap.py: functions change places in the modules of one package, and back."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import ModuleType

import pytest

Recipe = Callable[[str], ModuleType]


def theirs() -> str:
    return "theirs"


def ours() -> str:
    return "ours"


@pytest.fixture
def modules(monkeypatch: pytest.MonkeyPatch) -> dict[str, ModuleType]:
    """Three modules that got hold of one function: two of a package, one of another whose name
    begins alike."""
    found = {}
    for path in ("house", "house.room", "household"):
        found[path] = ModuleType(path)
        found[path].f = theirs
        monkeypatch.setitem(sys.modules, path, found[path])
    return found


def test_every_module_of_the_package_and_no_other(
    recipe: Recipe, modules: dict[str, ModuleType]
) -> None:
    with recipe("swap").swap("house", {theirs: ours}) as swap:
        assert swap.replaced == ["house.f", "house.room.f"]
        assert str(swap) == "replaced house.f\nreplaced house.room.f"
        assert modules["house"].f() == modules["house.room"].f() == "ours"
        assert modules["household"].f() == "theirs"
    assert {module.f() for module in modules.values()} == {"theirs"}


def test_undone_after_an_error_and_in_what_was_imported_in_between(
    recipe: Recipe, modules: dict[str, ModuleType], monkeypatch: pytest.MonkeyPatch
) -> None:
    late = ModuleType("house.attic")
    with pytest.raises(KeyError), recipe("swap").swap("house", {theirs: ours}):
        late.f = modules["house"].f  # as `from house import f` does
        monkeypatch.setitem(sys.modules, "house.attic", late)
        raise KeyError
    assert late.f is modules["house"].f is theirs


def test_two_functions_are_told_apart(recipe: Recipe, modules: dict[str, ModuleType]) -> None:
    """With one of ours for both, undo would put the same back for either."""

    def others() -> str:
        return "others"

    modules["house"].g = others
    with pytest.raises(ValueError, match="as many of our functions as of theirs"):
        recipe("swap").swap("house", {theirs: ours, others: ours})
    with recipe("swap").swap("house", {theirs: ours, others: lambda: "ours"}):
        assert modules["house"].g() == "ours"
    assert modules["house"].f is theirs and modules["house"].g is others


def test_the_second_of_two_leaves_the_first_alone(
    recipe: Recipe, modules: dict[str, ModuleType]
) -> None:
    swap = recipe("swap").swap
    outer = swap("house", {theirs: ours})
    with swap("house", {theirs: ours}) as inner:
        assert str(inner) == "nothing was replaced"
    assert modules["house"].f is ours
    outer.undo()
    assert modules["house"].f is theirs
    with swap("house", {theirs: ours}):
        outer.undo()  # it has been undone: this one is another's
        assert modules["house"].f is ours


def test_methods_of_the_package_s_classes(recipe: Recipe, modules: dict[str, ModuleType]) -> None:
    """Those that a module defines; not what it imported."""
    own, imported = (
        type(name, (), {"__module__": where, "f": theirs})
        for name, where in (("Own", "house.room"), ("Imported", "household"))
    )
    modules["house.room"].Own, modules["house.room"].Imported = own, imported
    with recipe("swap").swap("house.room", {theirs: ours}) as swap:
        assert swap.replaced == ["house.room.Own.f", "house.room.f"]
        assert own.f() == "ours" and imported.f() == modules["house"].f() == "theirs"
    assert own.f is theirs
