"""Pieces of HTML that several sections have in common."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import TypeVar

T = TypeVar("T")


def section(title: str, *parts: str) -> str:
    return f"<section><h2>{escape(title)}</h2>{''.join(parts)}</section>\n"


def paragraph(words: str, css: str = "") -> str:
    given = f' class="{css}"' if css else ""
    return f"<p{given}>{escape(words)}</p>"


def figure(drawing: str, caption: str) -> str:
    return f"<figure>{drawing}<figcaption>{escape(caption)}</figcaption></figure>"


def figures(each: Iterable[str], css: str) -> str:
    return f'<div class="figures {css}">{"".join(each)}</div>'


def table(heads: Sequence[str], rows: Iterable[tuple[str, Iterable[str]]]) -> str:
    """Rows: the attributes of the row, and its cells; one with a letter in it is of words."""
    head = "".join(f'<th scope="col">{escape(words)}</th>' for words in heads)
    body = "".join(
        f"<tr{attributes}>{''.join(map(_cell, cells))}</tr>\n" for attributes, cells in rows
    )
    return (
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead>\n<tbody>{body}</tbody>'
        "</table></div>"
    )


def _cell(words: str) -> str:
    css = ' class="words"' if any(map(str.isalpha, words)) else ""
    return f"<td{css}>{escape(words)}</td>"


def first(items: Sequence[T], most: int, what: str) -> tuple[Sequence[T], str]:
    """At most so many of them, and a paragraph that says how many are left out."""
    left = len(items) - most
    note = paragraph(f"{left} more {what} are left out here.", "muted") if left > 0 else ""
    return items[:most], note


def percent(share: float) -> str:
    """With the digits that are left of a small one."""
    return f"{100 * share:.2g} %" if share < 0.1 else f"{100 * share:.1f} %"
