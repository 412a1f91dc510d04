"""Pages that have nothing but the markers between which benchmarks.tables writes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path


def write_pages(root: Path, pages: Mapping[str, Sequence[str]]) -> None:
    """`pages`: benchmarks.tables.PAGES. What stood there is gone."""
    for name, sections in pages.items():
        page = root / name
        page.parent.mkdir(parents=True, exist_ok=True)
        marked = (f"<!-- {s}:begin -->\nold\n<!-- {s}:end -->\n" for s in sections)
        page.write_text(f"before\n{''.join(marked)}after\n")
