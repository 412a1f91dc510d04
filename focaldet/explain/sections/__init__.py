"""The sections of a page, in its order: each a function from what is known to HTML."""

from __future__ import annotations

from ..look import Look
from ..objects import objects
from . import learned, loss, overview, precision, scores, suppression


def sections(look: Look) -> list[str]:
    things = objects(look)
    return [
        overview.section(look, things),
        learned.section(look, things),
        scores.section(look),
        loss.section(look),
        suppression.section(look),
        precision.section(look),
    ]
