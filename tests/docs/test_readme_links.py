"""Links of the pages outside of the site, which a build of it does not check, lead somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
PAGES = [
    name
    for name in ("README.md", "CONTRIBUTING.md", "examples/README.md")
    if (ROOT / name).exists()
]
LINK = re.compile(r"\]\((?!https?://)([^()#\s]*)(?:#([^()\s]+))?\)")
HEADING = re.compile(r"^#+ (.+)$", re.M)


def anchors(text: str) -> set[str]:
    """As GitHub and mkdocs make them of headings, which repeat nowhere."""
    words = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in HEADING.findall(text))
    return {each.strip().replace(" ", "-") for each in words}


def broken(text: str, page: Path) -> list[str]:
    found = []
    for match in LINK.finditer(text):
        target, anchor = match.groups()
        file = page.parent / target if target else page
        if not file.exists():
            found.append(f"{match[0][1:]}: no such file")
        elif anchor and anchor not in anchors(text if file == page else file.read_text("utf-8")):
            found.append(f"{match[0][1:]}: no such heading")
    return found


@pytest.mark.parametrize("name", PAGES)
def test_links_lead_somewhere(name: str) -> None:
    assert broken((ROOT / name).read_text("utf-8"), ROOT / name) == []


def test_broken_links_are_found() -> None:
    text = "# A page\n[a](#a-page) [b](#b) [c](no/such.md)\n[d](setup.py) [e](https://e.org/#e)"
    assert broken(text, ROOT / "README.md") == [
        "(#b): no such heading",
        "(no/such.md): no such file",
    ]
