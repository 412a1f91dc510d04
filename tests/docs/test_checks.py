"""docs/guides/data.md has the checks as they are registered."""

from __future__ import annotations

import importlib

import pytest


@pytest.mark.usefixtures("docs")
def test_the_table_of_checks_is_that_of_the_registry() -> None:
    checks = importlib.import_module("docs.checks")
    text = checks.PAGE.read_text(encoding="utf-8")
    assert text == checks.rendered(text), "python -m docs.checks writes it anew"
