"""The recipes in examples/, which are files and no package."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


@pytest.fixture
def recipe(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    """Imports a recipe, by name, as a script in examples/ does."""
    monkeypatch.syspath_prepend(EXAMPLES)
    return importlib.import_module
