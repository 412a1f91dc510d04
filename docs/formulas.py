"""Formulas of the pages: LaTeX in a fence named math becomes MathML, which needs no script."""

from __future__ import annotations

from html import escape
from typing import Any

from latex2mathml.converter import convert


def fence(source: str, language: str, css_class: str, options: Any, md: Any, **_: Any) -> str:
    """A custom fence of pymdownx.superfences. On GitHub the same fence is a formula, too."""
    return f'<div class="{escape(css_class)}">{convert(source.strip(), display="block")}</div>'
