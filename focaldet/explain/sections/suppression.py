"""Boxes before and after non-maximum suppression, and who suppressed whom."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ...ops import box_iou
from ...words import counted
from ..look import Look
from ..markup import figure, figures, first, paragraph, table
from ..markup import section as section_of
from ..pictures import colour, drawing, rect

BOXES, ROWS, NAMED = 1500, 100, 4  # drawn, in the table, suppressed boxes named in a row


def section(look: Look) -> str:
    found, size = look.candidates, look.picture.size
    every = list(range(len(found.scores)))
    if not every:
        words = f"No box scores above {look.least:g}: there is nothing to suppress."
        return section_of("Before and after suppression", paragraph(words, "muted"))
    rank_of = {row: rank for rank, row in enumerate(found.keep.tolist())}
    before, left_out = first(every, BOXES, "candidates, of lower scores,")
    after, not_drawn = first(found.keep[: look.limit].tolist(), BOXES, "kept boxes")
    beyond = len(found.keep) - look.limit
    cut = f", of which the best {look.limit} are the detections" if beyond > 0 else ""
    rows, unlisted = first(after, ROWS, "kept boxes, of lower scores,")
    return section_of(
        "Before and after suppression",
        paragraph(
            f"{counted(len(every), 'candidate')}: of each level the best scores above "
            f"{look.least:g}. A box of the same class that overlaps a better kept one by more "
            f"than {look.nms_iou:g} is suppressed: "
            f"{counted(len(found.keep), 'box is', 'boxes are')} kept{cut}; "
            f"{int((found.scores[found.keep] > look.threshold).sum()):,} of them score "
            f"above {look.threshold:g}. A row of the table under the pointer shows its cluster."
        ),
        figures(
            (
                figure(
                    drawing(size, _shapes(look, before, rank_of), "before suppression", css="pale"),
                    f"before: {counted(len(before), 'candidate')}",
                ),
                figure(
                    drawing(size, _shapes(look, after, rank_of), "after suppression", css="pale"),
                    f"after: {counted(len(after), 'box', 'boxes')}; faint: score of "
                    f"{look.threshold:g} or less",
                ),
            ),
            "half",
        ),
        left_out,
        not_drawn,
        table(
            ("box", "class", "score", "suppressed", "the best of them, with their IoU"),
            ((f' data-c="{rank}"', _cells(look, rank, row)) for rank, row in enumerate(rows)),
        ),
        unlisted,
    )


def _shapes(look: Look, rows: Sequence[int], rank_of: dict[int, int]) -> Iterator[str]:
    """The largest first: what is on top catches the pointer."""
    found = look.candidates
    sides = (found.boxes[:, 2:] - found.boxes[:, :2]).prod(1).tolist()
    for row in sorted(rows, key=lambda row: -sides[row]):
        label, score, by = int(found.labels[row]), found.scores[row].item(), int(found.match[row])
        rank = rank_of.get(by, -1)
        kept = "kept" if by == row else f"suppressed by box {rank + 1}"
        faint = " faint" if score <= look.threshold else ""
        yield rect(
            found.boxes[row].tolist(),
            f"thin {colour(label)}{faint}",
            f"{look.class_names[label]} {score:.3f}, {kept}{f' as {rank + 1}' * (by == row)}",
            c=rank,
        )


def _cells(look: Look, rank: int, row: int) -> Iterator[str]:
    found = look.candidates
    below = ((found.match == row).nonzero().flatten()).tolist()
    below.remove(row)
    ious = box_iou(found.boxes[row : row + 1], found.boxes[below[:NAMED]])[0].tolist()
    scores = found.scores[below[:NAMED]].tolist()
    yield str(rank + 1)
    yield look.class_names[int(found.labels[row])]
    yield f"{found.scores[row]:.3f}"
    yield str(len(below))
    named = [f"{score:.2f} (IoU {iou:.2f})" for score, iou in zip(scores, ious, strict=True)]
    yield ", ".join(named + ["..."] * (len(below) > NAMED))
