"""The pictures of the documentation, each drawn by the operators that it explains."""

from __future__ import annotations


def draw_all() -> dict[str, bytes]:
    """SVGs by name."""
    return {}
