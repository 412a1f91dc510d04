"""Numbers of things, as messages and pages say them."""

from __future__ import annotations


def counted(number: int, one: str, many: str = "") -> str:
    """Such as "1 box" and "2 boxes"; `many` where it is not `one` with an s."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"
