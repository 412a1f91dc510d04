"""The package's imports go along the arrows of docs/contributing/architecture.md."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "focaldet"
PAGE = ROOT / "docs" / "contributing" / "architecture.md"
ARROW = re.compile(r"^ +(\w+) --> (\w+)$", re.MULTILINE)
# The modules, what loads them, and what gives their operators to Python.
EXTENSION = {"_C", "_C_cuda", "cuda_reason", "_extension", "torch_ops"}
FACADE = {"AnchorGrid": "ops", "Anchors": "ops", "__version__": "extension"}

Arrows = dict[str, set[str]]


@pytest.fixture(scope="module")
def arrows() -> Arrows:
    """Of the first picture: whom each part points to."""
    picture = PAGE.read_text().split("```mermaid\n")[1].split("```")[0]
    result: Arrows = {}
    for source, target in ARROW.findall(picture):
        result.setdefault(source, set()).add(target)
        result.setdefault(target, set())
    return result


def reachable(arrows: Arrows, part: str) -> set[str]:
    found: set[str] = set()
    open_parts = [part]
    while open_parts:
        new = arrows[open_parts.pop()] - found
        found |= new
        open_parts += new
    return found


def part_of(module: str) -> str:
    """The part that a module of the package belongs to: its first name below focaldet."""
    name = (module.split(".") + ["_extension"])[1]
    return FACADE.get(name, "extension" if name in EXTENSION else name)


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Line and absolute name of whatever a file imports, wherever in it."""
    package = ".".join(path.relative_to(ROOT).parent.parts)
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, *filter(None, [node.module])])
            for alias in node.names:
                yield node.lineno, f"{base}.{alias.name}" if base == "focaldet" else base


def inner(path: Path) -> Iterator[tuple[int, str]]:
    """Line and part of what a file imports from the package."""
    for line, module in imports(path):
        if module.split(".")[0] == "focaldet":
            yield line, part_of(module)


def files() -> list[Path]:
    """All modules but the package's own, which loads the extension and hands on names."""
    return [path for path in sorted(PACKAGE.rglob("*.py")) if path != PACKAGE / "__init__.py"]


def own_part(path: Path) -> str:
    return part_of(f"focaldet.{path.relative_to(PACKAGE).parts[0].removesuffix('.py')}")


def test_every_import_follows_the_arrows(arrows: Arrows) -> None:
    wrong = []
    for path in files():
        part = own_part(path)
        assert part in arrows, f"{part} is not in the picture of {PAGE.name}"
        allowed = reachable(arrows, part) | {part}
        wrong += [
            f"{path.relative_to(ROOT)}:{line} imports {other}"
            for line, other in inner(path)
            if other not in allowed
        ]
    assert not wrong, "\n".join(wrong)


def test_every_arrow_is_an_import(arrows: Arrows) -> None:
    there = {(own_part(path), part) for path in files() for _, part in inner(path)}
    drawn = {(source, target) for source, targets in arrows.items() for target in targets}
    assert drawn - there == set()


def test_no_part_reaches_itself(arrows: Arrows) -> None:
    assert [part for part in arrows if part in reachable(arrows, part)] == []


def test_the_reference_imports_torch_alone() -> None:
    own = list((PACKAGE / "reference").glob("*.py"))
    found = {module.split(".")[0] for path in own for _, module in imports(path)}
    assert found - set(sys.stdlib_module_names) == {"torch", "focaldet"}
    assert {part for path in own for _, part in inner(path)} == {"reference"}


def test_the_data_know_no_model(arrows: Arrows) -> None:
    assert reachable(arrows, "data") == {"errors"}


def test_the_operators_know_no_detector(arrows: Arrows) -> None:
    assert reachable(arrows, "ops") == {"reference", "extension"}


def test_what_counts_as_an_import(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    file = tmp_path / "focaldet" / "ops" / "a.py"
    file.parent.mkdir(parents=True)
    file.write_text(
        "import torch.nn\nfrom .. import reference, _C_cuda\nfrom .b import c\n"
        "from focaldet import Anchors\ndef f():\n    from ..models.fpn import FPN\n"
    )
    assert list(inner(file)) == [
        (2, "reference"),
        (2, "extension"),
        (3, "ops"),
        (4, "ops"),
        (6, "models"),
    ]
