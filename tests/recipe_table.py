"""`python tests/recipe_table.py`: writes the table of docs/guides/recipes.md from the recipes that
ship with the package. `--check` changes nothing, and exits with 1 if the page differs."""

from __future__ import annotations

import sys
from pathlib import Path

from focaldet.recipes import Configuration, load, names

PAGE = Path(__file__).parents[1] / "docs" / "guides" / "recipes.md"
BEGIN, END = "<!-- recipes:begin -->\n", "<!-- recipes:end -->"
HEAD = """\
| recipe | what it is | published, not run here |
|---|---|---|
"""


def render() -> str:
    return HEAD + "".join(row(load(name)) for name in names())


def row(setup: Configuration) -> str:
    claim = setup.expected
    published = f"AP {claim['AP']:.3f} on {claim['data']} ({claim['source']})" if claim else ""
    assert not claim.get("run_here"), f"{setup.name}: the table's heading says that it was not run"
    return f"| `{setup.name}` | {setup.about} | {published} |\n"


def rendered(page: str) -> str:
    """The page with the table between its two marker lines."""
    before, _, rest = page.partition(BEGIN)
    _, found, after = rest.partition(END)
    assert found, f"{PAGE.name}: expected the lines {BEGIN.strip()} and {END}"
    return f"{before}{BEGIN}\n{render()}\n{END}{after}"


def main() -> int:
    page = PAGE.read_text(encoding="utf-8")
    if sys.argv[1:] == ["--check"]:
        return int(page != rendered(page))
    PAGE.write_text(rendered(page), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
