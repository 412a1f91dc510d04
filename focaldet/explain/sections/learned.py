"""Of each object: the anchors that learn it, and whether it was found, and by what."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ...words import counted
from ..look import Look
from ..markup import figure, figures, first, paragraph, table
from ..markup import section as section_of
from ..objects import Object
from ..pictures import around, colour, drawing, rect

ROWS, DRAWN, ANCHORS = 400, 24, 30  # objects in the table, objects drawn, anchors drawn of each
TITLE = "Objects and their anchors"
NO_TRUTH = "Without ground truth (--data) there are no objects to speak of."


def section(look: Look, things: Sequence[Object]) -> str:
    if look.target is None:
        return section_of(TITLE, paragraph(NO_TRUTH, "muted"))
    if not things:
        return section_of(TITLE, paragraph("There are no objects on this image.", "muted"))
    rows, left = first(things, ROWS, "objects")
    # Those that were missed, then those with the fewest anchors.
    by_need = sorted(things, key=lambda thing: (thing.detection is not None, len(thing.anchors)))
    drawn, undrawn = first(by_need, DRAWN, "objects")
    return section_of(
        TITLE,
        paragraph(
            f"An anchor with an IoU of {look.fg_iou:g} or more learns the object; so do the best "
            "anchors of an object that has no such anchor, where the model's rule for low quality "
            "lets them. Found: by a detection of its class with an IoU of .5 or more, each "
            "detection for one object."
        ),
        table(
            (
                "object",
                "class",
                "anchors",
                "levels",
                "best IoU",
                "low quality",
                "what became of it",
            ),
            (("", _cells(look, thing)) for thing in rows),
        ),
        left,
        paragraph(
            "Drawn: objects (white, dashed), their anchors (thin), and the detection that found "
            "them. Those that were missed come first."
        ),
        figures((_drawn(look, thing) for thing in drawn), "small"),
        undrawn,
    )


def _cells(look: Look, thing: Object) -> Iterator[str]:
    yield str(thing.number)
    yield look.class_names[thing.label]
    yield str(len(thing.anchors))
    yield ", ".join(f"{look.level_name(level)}: {n}" for level, n in thing.levels)
    yield f"{thing.best_iou:.2f}"
    yield str(thing.by_low_quality)
    yield thing.verdict


def _drawn(look: Look, thing: Object) -> str:
    best = thing.ious.argsort(descending=True)[:ANCHORS]
    shapes = [
        rect(
            look.anatomy.anchors[row].tolist(),
            f"thin {colour(thing.label)}",
            f"anchor on {look.level_name(look.anatomy.level[row])}, IoU {iou:.2f}",
        )
        for row, iou in zip(thing.anchors[best].tolist(), thing.ious[best].tolist(), strict=True)
    ]
    box = thing.box.tolist()
    shapes += [rect(box, "under"), rect(box, "truth", look.class_names[thing.label])]
    if thing.detection is not None:
        found = look.detections["boxes"][thing.detection].tolist()
        shapes.append(rect(found, colour(thing.label), f"detection {thing.detection + 1}"))
    hidden = len(thing.anchors) - len(best)
    anchors = counted(len(thing.anchors), "anchor") + (f", {hidden} not drawn" if hidden else "")
    caption = f"Object {thing.number}, {look.class_names[thing.label]}, {anchors}. {thing.verdict}"
    window = around(thing.box, look.picture.size)
    return figure(drawing(look.picture.size, shapes, caption, window), caption)
