"""Which anchors carry the loss, and what the hardest of them see."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from ...ops import box_iou
from ..charts import Line, chart
from ..look import Look
from ..loss import EASY, Carried, carried
from ..markup import figure, figures, paragraph, percent, table
from ..markup import section as section_of
from ..pictures import around, drawing, rect, text

TITLE = "Which anchors carry the loss"
NO_TRUTH = "Without ground truth (--data) there is no loss."
OWN, OTHER = 3, 2  # colours of the two gammas


def section(look: Look) -> str:
    if look.target is None:
        return section_of(TITLE, paragraph(NO_TRUTH, "muted"))
    found = carried(look.anatomy)
    own, other = (f"gamma {gamma:g}" for gamma in found.gammas)
    return section_of(
        TITLE,
        paragraph(
            f"The classification loss of this image with the model's own {own}, and with {other} "
            "beside it, at the same alpha. Background is easy where every class scores below "
            f"{EASY:g}. The hardest 1 % of the background carries {percent(found.top[0])} of the "
            f"background's loss; with {other} it would be {percent(found.top[1])}."
        ),
        table(
            ("anchors", "number", f"share of the loss, {own}", f"share of the loss, {other}"),
            (
                ("", (group.name, f"{group.anchors:,}", *map(percent, group.shares)))
                for group in found.groups
            ),
        ),
        figures(_charts(found, (own, other)), "half"),
        paragraph(
            "Cumulative, as in Figure 4 of Lin et al. 2017: the share of the loss that the easiest "
            "anchors, so many of all, make up. The closer a curve keeps to the right edge, the "
            "fewer anchors carry the loss."
        ),
        *_hardest(look, found),
    )


def _charts(found: Carried, names: tuple[str, str]) -> Iterator[str]:
    for kind, curves in (("foreground", found.foreground), ("background", found.background)):
        lines = [
            Line(name, colour, curve.tolist(), dashed)
            for name, curve, colour, dashed in zip(
                names, curves, (OWN, OTHER), (False, True), strict=True
            )
        ]
        yield chart(lines, f"fraction of the {kind} anchors", "share of their loss")


def _hardest(look: Look, found: Carried) -> Iterator[str]:
    ranks = [row for row in found.hardest.tolist() if found.losses[row] > 0]
    total, size = found.losses.double().sum().item(), look.picture.size
    shapes = []
    for number, row in enumerate(ranks, start=1):
        box = look.anatomy.anchors[row].tolist()
        css = f"k{(number - 1) % 10}"
        shapes += [rect(box, css), text(box, str(number), css, max(size) / 45)]
    yield f"<h3>The {len(ranks)} anchors of the highest loss</h3>"
    yield drawing(size, shapes, "anchors of the highest loss", css="wide")
    yield figures((_one(look, found, n, row, total) for n, row in enumerate(ranks)), "small")


def _one(look: Look, found: Carried, number: int, row: int, total: float) -> str:
    anatomy, names = look.anatomy, look.class_names
    scores, label = anatomy.logits[row].sigmoid(), int(anatomy.labels[row])
    top = int(scores.argmax())
    if label >= 0:
        is_a = f"learns {names[label]}, and scores {scores[label]:.3f} for it"
    else:
        is_a = f"is background, and scores {scores[top]:.3f} for {names[top]}"
    caption = (
        f"{number + 1}: an anchor of {look.level_name(anatomy.level[row])} {is_a}"
        f"{_nearest(look, anatomy.anchors[row])}. {percent(found.losses[row].item() / total)} of "
        "the loss."
    )
    box = anatomy.anchors[row]
    shapes = [rect(box.tolist(), f"k{number % 10}")]
    window = around(box, look.picture.size, 0.4)
    return figure(drawing(look.picture.size, shapes, caption, window), caption)


def _nearest(look: Look, anchor: Tensor) -> str:
    assert look.target is not None
    if not len(look.target["labels"]):
        return ""
    iou, row = box_iou(look.target["boxes"], anchor[None])[:, 0].max(0)
    return (
        f"; its IoU with object {int(row) + 1} is {iou:.2f}" if iou > 0 else "; it meets no object"
    )
