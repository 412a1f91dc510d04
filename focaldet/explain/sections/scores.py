"""Where each level sees something: maps of the highest score at each place, over the image."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape

from torch import Tensor

from ..look import Look
from ..markup import figure, figures, first, paragraph
from ..markup import section as section_of
from ..pictures import drawing, heat

CLASSES = 10  # with maps of their own


def section(look: Look) -> str:
    scores = look.anatomy.logits.sigmoid()  # [N, K]
    highest = scores.max().item()
    by_score = scores.amax(0).argsort(descending=True, stable=True).tolist()
    classes, left = first(by_score, CLASSES, "classes, of lower scores,")
    details = (
        f"<details><summary>{escape(look.class_names[label])}, at most "
        f"{scores[:, label].max():.3f}</summary>"
        f"{figures(_levels(look, scores[:, label], highest), 'small')}</details>"
        for label in classes
    )
    return section_of(
        "Scores by level",
        paragraph(
            "At each place the highest score of any class and anchor there, from dark red, low, "
            f"to yellow, {highest:.3f}, the highest of the image; in the maps of one class, of "
            "that class. A place lies where its anchors have their centres."
        ),
        figures(_levels(look, scores.amax(1), highest), "small"),
        *(details if len(look.class_names) > 1 else ()),
        left,
    )


def _levels(look: Look, scores: Tensor, highest: float) -> Iterator[str]:
    """scores: [N]."""
    grid, (scale_x, scale_y) = look.anatomy.grid, look.anatomy.scale[:2].tolist()
    for number, ((height, width), (step_y, step_x)) in enumerate(
        zip(grid.feature_sizes, grid.strides, strict=True)
    ):
        part = scores[look.anatomy.level == number]
        places = part.reshape(height, width, grid.per_position).amax(2)
        left, upper = ((grid.offset - 0.5) * step for step in (step_x, step_y))
        shown = (
            f'<image x="{left / scale_x:.2f}" y="{upper / scale_y:.2f}" '
            f'width="{width * step_x / scale_x:.2f}" height="{height * step_y / scale_y:.2f}" '
            f'preserveAspectRatio="none" href="{heat(places, highest)}"/>'
        )
        name = f"{look.level_name(number)}, stride {step_x}: at most {places.max():.3f}"
        yield figure(drawing(look.picture.size, [shown], name, css="pale"), name)
