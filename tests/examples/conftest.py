"""The recipes in examples/, which are files and no package."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


@pytest.fixture
def recipe(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    """Imports a recipe, by name, as a script in examples/ does."""
    monkeypatch.syspath_prepend(EXAMPLES)
    return importlib.import_module


REAL = pytest.param(
    "detectron2",
    marks=pytest.mark.skipif(find_spec("detectron2") is None, reason="detectron2 is not installed"),
)


@pytest.fixture(params=["stand-in", REAL])
def package(
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
    recipe: Callable[[str], ModuleType],
) -> Iterator[Any]:
    """detectron2 and its recipe, as detectron2_package.Package."""
    pytest.importorskip("torchvision", reason="torchvision is not installed")
    import detectron2_package

    yield from detectron2_package.opened(request.param, monkeypatch, recipe)
