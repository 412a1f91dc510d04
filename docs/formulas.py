"""Formulas of the pages: LaTeX in a fence named math becomes MathML, which needs no script."""

from __future__ import annotations

from html import escape
from typing import Any

from latex2mathml.converter import convert
from pymdownx.superfences import SuperFencesException


def fence(source: str, language: str, css_class: str, options: Any, md: Any, **_: Any) -> str:
    """A custom fence of pymdownx.superfences. On GitHub the same fence is a formula, too.

    A command that the converter does not know would be shown as it is: that ends the build.
    """
    mathml = convert(source.strip(), display="block")
    if "\\" in mathml:
        raise SuperFencesException(
            f"a formula has a command that latex2mathml does not know: {source}"
        )
    return f'<div class="{escape(css_class)}">{mathml}</div>'
