"""docs/guides/upgrading.md: the names in its tables exist, those of torchvision where it is."""

from __future__ import annotations

import importlib
import re
from functools import reduce
from pathlib import Path

import pytest

from focaldet import models, ops

PAGE = Path(__file__).resolve().parent.parent.parent / "docs" / "guides" / "upgrading.md"
ROW = re.compile(r"^\| `(?P<theirs>[\w.]+)` \| (?P<ours>[^|]+) \| [^|]*\|$", re.M)
ROWS = [(row["theirs"], row["ours"]) for row in ROW.finditer(PAGE.read_text(encoding="utf-8"))]


def found(name: str) -> object:
    """What a dotted name means, importing as far as there are modules."""
    module, _, rest = name.partition(".")
    thing = importlib.import_module(module)
    for part in rest.split("."):
        if not hasattr(thing, part):
            importlib.import_module(f"{thing.__name__}.{part}")
        thing = getattr(thing, part)
    return thing


def test_every_row_was_read() -> None:
    lines = [line for line in PAGE.read_text().splitlines() if line.startswith("| `")]
    assert len(lines) == len(ROWS)


@pytest.mark.parametrize("theirs, ours", ROWS, ids=[row[0] for row in ROWS])
def test_our_names_exist(theirs: str, ours: str) -> None:
    names = re.findall(r"`([^`]+)`", ours)
    assert names and re.sub(r"`[^`]+`|, ", "", ours) == ""
    for name in names:
        module, *path = name.split(".")
        assert callable(reduce(getattr, path, {"ops": ops, "models": models}[module])) or (
            name == "models.V2"
        )


def test_torchvisions_names_exist() -> None:
    pytest.importorskip("torchvision")
    names = [theirs for theirs, _ in ROWS if theirs.startswith("torchvision.")]
    assert len(names) >= 12
    for name in names:
        assert callable(found(name)), name
    with pytest.raises((ImportError, AttributeError)):
        found("torchvision.ops.no_such_function")


def test_fvcores_names_exist() -> None:
    pytest.importorskip("fvcore")
    for name in (theirs for theirs, _ in ROWS if theirs.startswith("fvcore.")):
        assert callable(found(name)), name
