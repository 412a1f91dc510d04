"""The code of the site's build, importable as `docs`."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def docs(benchmarks: None) -> Iterator[None]:
    """The package `docs` of the project, and not the folder of these tests."""
    others = {name: module for name, module in sys.modules.items() if _is_docs(name)}
    for name in others:
        del sys.modules[name]
    folder = ROOT / "docs"
    spec = importlib.util.spec_from_file_location(
        "docs", folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    sys.modules["docs"] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield
    for name in [name for name in sys.modules if _is_docs(name)]:
        del sys.modules[name]
    sys.modules.update(others)


def _is_docs(name: str) -> bool:
    return name.partition(".")[0] == "docs"
