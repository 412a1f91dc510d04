"""The documentation's pages: complete, with every picture, and built without a warning."""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from focaldet import ops

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
NAV = re.findall(r"^\s*-\s(?:[^:\n]*:\s)?(\S+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.M)
WITHOUT_A_PAGE = {"AnchorGrid", "Anchors"}  # on that of generate_anchors
OPERATORS = sorted(set(ops.__all__) - WITHOUT_A_PAGE)
SECTIONS = [
    *("Formula", "Equivalent to", "Shapes", "Dtypes and devices", "Cost", "Determinism"),
    *("Gradients and compilers", "Errors", "Reference", "See also"),
]
OPTIONAL = {"Determinism"}  # where there is more to say than that sums and elements are


def page(name: str) -> str:
    return (DOCS / "operators" / f"{name}.md").read_text(encoding="utf-8")


def test_every_operator_has_a_page() -> None:
    pages = [name for name in NAV if name.startswith("operators/")]
    assert sorted(pages) == sorted(f"operators/{name}.md" for name in [*OPERATORS, "index"])
    listed = re.findall(r"^\| \[`(\w+)`\]\((\w+)\.md\)", page("index"), re.M)
    assert sorted(listed) == [(name, name) for name in OPERATORS]


@pytest.mark.parametrize("name", OPERATORS)
def test_a_page_has_all_sections(name: str) -> None:
    text = page(name)
    assert text.startswith(f"# {name}\n")
    found = re.findall(r"^## (.+)$", text, re.M)
    assert found == [s for s in SECTIONS if s in found]
    assert set(SECTIONS) - set(found) <= OPTIONAL
    section = dict(zip(found, re.split(r"^## .+$", text, flags=re.M)[1:], strict=True))
    assert "```math" in section["Formula"]
    assert re.search(r"^assert |^ +assert |assert_close\(", section["Equivalent to"], re.M)
    assert f"ops.{name}(" in section["Equivalent to"]
    assert re.search(r"^\|", section["Shapes"], re.M)
    assert "../kernels/" in section["See also"] and "../guides/" in section["See also"]


def documented(name: str) -> list[str]:
    """What mkdocstrings is to show on a page."""
    return re.findall(r"^::: (\S+)$", page(name), re.M)


@pytest.mark.parametrize("name", OPERATORS)
def test_a_page_shows_its_docstring(name: str) -> None:
    """By the module that defines it: read without an import, focaldet.ops.nms is a module."""
    for path in documented(name):
        module, _, function = path.rpartition(".")
        shown = getattr(importlib.import_module(module), function)
        assert shown is getattr(ops, function) and shown.__module__ == module
    wanted = {name} | (WITHOUT_A_PAGE if name == "generate_anchors" else set())
    assert {path.rpartition(".")[2] for path in documented(name)} == wanted


def test_every_picture_is_shown(docs: None) -> None:
    pytest.importorskip("matplotlib")
    shown = {}
    for file in DOCS.rglob("*.md"):
        for alt, name in re.findall(r"!\[(.*?)\]\([./]*pictures/(\w+)\.svg\)", file.read_text()):
            assert len(alt) > 20, f"{file}: {name} needs words for those who do not see it"
            shown[name] = file
    assert shown.keys() == importlib.import_module("docs.pictures").PICTURES.keys()


def test_a_formula_with_an_unknown_command_ends_the_build(docs: None) -> None:
    pytest.importorskip("latex2mathml")
    pytest.importorskip("pymdownx")
    formulas = importlib.import_module("docs.formulas")
    html = formulas.fence(r"\frac{a}{b}", "math", "math", {}, None)
    assert html.startswith('<div class="math"><math') and "<mfrac>" in html
    with pytest.raises(Exception, match="does not know"):
        formulas.fence(r"\argmaximum_a", "math", "math", {}, None)


@pytest.mark.slow
def test_the_site_builds_without_a_warning(docs: None, tmp_path: Path) -> None:
    pytest.importorskip("mkdocs", reason="needs `pip install --group docs`")
    pytest.importorskip("mkdocstrings", reason="needs `pip install --group docs`")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)],
        cwd=ROOT,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    for name in OPERATORS:
        html = (tmp_path / "operators" / name / "index.html").read_text(encoding="utf-8")
        article = html[html.index("<article") : html.index("</article>")]
        assert "<math" in article and ":::" not in article and "::</p>" not in article
        assert all(f'id="{path}"' in article for path in documented(name))
    # Another process draws the same.
    for name, svg in importlib.import_module("docs.pictures").draw_all().items():
        assert (tmp_path / "pictures" / f"{name}.svg").read_bytes() == svg, name
