"""The image with its ground truth and its detections, and how many of what."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape

from ..look import Look
from ..markup import section as section_of
from ..objects import Object, on_crowd
from ..pictures import colour, drawing, rect, text


def section(look: Look, things: Sequence[Object]) -> str:
    size = look.picture.size
    shapes = [*_truth(look, things), *_detections(look)]
    return section_of(
        "Ground truth and detections",
        f"<dl>{''.join(_facts(look, things))}</dl>",
        drawing(size, shapes, "ground truth and detections", css="wide"),
        _legend(look),
    )


def _facts(look: Look, things: Sequence[Object]) -> Iterator[str]:
    width, height = look.picture.size
    model_height, model_width = look.anatomy.size
    finders = {thing.detection for thing in things} - {None}
    shown = len(look.detections["scores"])
    ignored = {*on_crowd(look)[:shown].nonzero().flatten().tolist()} - finders
    facts = {
        "Image": f"{width} x {height}, at the model {model_width} x {model_height}",
        "Anchors": f"{len(look.anatomy.anchors):,} on {len(look.anatomy.grid.levels())} levels",
        "Detections": f"{shown:,} with a score above {look.threshold:g}",
    }
    if look.target is not None:
        facts["Objects"] = f"{len(things):,}, of which {len(finders):,} found at IoU .5"
        facts["False detections"] = f"{shown - len(finders) - len(ignored):,}"
    if look.crowd is not None and (regions := len(look.crowd["labels"])):
        facts["Crowd regions"] = f"{regions:,}, with {len(ignored):,} detections, not counted"
    for name, value in facts.items():
        yield f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>"


def _truth(look: Look, things: Sequence[Object]) -> Iterator[str]:
    if look.crowd is not None:
        columns = (look.crowd[key].tolist() for key in ("boxes", "labels"))
        for box, label in zip(*columns, strict=True):
            what = f"crowd of {look.class_names[label]}: not learned, and not scored"
            yield rect(box, "under") + rect(box, "crowd", what)
    for thing in things:
        name = look.class_names[thing.label]
        box = thing.box.tolist()
        yield rect(box, "under") + rect(
            box, "truth", f"object {thing.number}: {name}. {thing.verdict}"
        )


def _detections(look: Look) -> Iterator[str]:
    found, size = look.detections, max(look.picture.size) / 60
    columns = (found["boxes"], found["scores"], found["labels"])
    rows = list(zip(*(column.tolist() for column in columns), strict=True))
    for rank, (box, score, label) in enumerate(rows):
        name, css = look.class_names[label], colour(label)
        title = f"detection {rank + 1}: {name}, score {score:.3f}"
        yield rect(box, css, title)
        if len(rows) <= 60:  # more would hide the image
            yield text(box, f"{name} {score:.2f}", css, size)


def _legend(look: Look) -> str:
    labels = sorted(set(look.detections["labels"].tolist()))
    names = "".join(
        f'<span class="{colour(label)}">{escape(look.class_names[label])}</span>'
        for label in labels
    )
    truth = '<span class="truth dashed">ground truth</span>' if look.target is not None else ""
    crowds = look.crowd is not None and len(look.crowd["labels"])
    crowd = '<span class="crowd dotted">crowd regions</span>' if crowds else ""
    return f'<p class="legend">{names}{truth}{crowd}</p>'
