"""docs/guides/recipes.md tells what the files say."""

from __future__ import annotations

import recipe_table


def test_the_table_is_of_the_files() -> None:
    page = recipe_table.PAGE.read_text(encoding="utf-8")
    assert page == recipe_table.rendered(page), "python tests/recipe_table.py writes it"
