"""What became of each object: the anchors that learn it, and the box that found it or why none."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..ops import box_iou
from .look import Look

FOUND = 0.5  # IoU from which a detection of the class finds an object, as in AP50


@dataclass(frozen=True)
class Object:
    number: int  # from 1, in the order of the annotations
    label: int
    box: Tensor  # [4] in pixels of the picture
    anchors: Tensor  # int64 [n]: the rows of those matched to it
    ious: Tensor  # [n]: theirs
    best_iou: float  # of any anchor
    by_low_quality: int  # anchors matched below the threshold
    levels: list[tuple[int, int]]  # level and number of anchors, of those levels that have some
    detection: int | None  # what found it, a row of the detections
    verdict: str  # one sentence


def objects(look: Look) -> list[Object]:
    """Those of the target, in its order; without a target, none."""
    if look.target is None:
        return []
    boxes, labels = look.target["boxes"], look.target["labels"]
    ious = box_iou(boxes, look.scored["boxes"])  # [T, D]
    owner = assigned(ious, labels, look.scored["labels"])
    detection_of = {row: rank for rank, row in enumerate(owner) if row >= 0}
    shown = len(look.detections["scores"])
    results = []
    for row, (box, label) in enumerate(zip(boxes, labels.tolist(), strict=True)):
        of_anchors = box_iou(box[None], look.anatomy.anchors)[0]
        anchors = (look.anatomy.match == row).nonzero().flatten()
        levels = look.anatomy.level[anchors].bincount().tolist()
        rank = detection_of.get(row)
        found = rank is not None and rank < shown
        if rank is not None:
            score, iou = look.scored["scores"][rank].item(), ious[row, rank].item()
            verdict = (
                f"Found by detection {rank + 1} (score {score:.2f}, IoU {iou:.2f})."
                if found
                else f"Score too low: its best box has score {score:.3f}, and {look.threshold:g} "
                f"is needed (IoU {iou:.2f})."
            )
        else:
            verdict = _why_missed(look, row, owner, anchors, of_anchors)
        results.append(
            Object(
                number=row + 1,
                label=label,
                box=box,
                anchors=anchors,
                ious=of_anchors[anchors],
                best_iou=of_anchors.max().item() if len(of_anchors) else 0.0,
                by_low_quality=int((of_anchors[anchors] < look.fg_iou).sum()),
                levels=[(level, n) for level, n in enumerate(levels) if n],
                detection=rank if found else None,
                verdict=verdict,
            )
        )
    return results


def on_crowd(look: Look) -> Tensor:
    """Which of the `scored` detections lie in a crowd region of their class, by FOUND or more of
    their area: bool [D]. As COCO's evaluation says, they are not false."""
    if look.crowd is None or not len(look.crowd["labels"]):
        return torch.zeros(len(look.scored["labels"]), dtype=torch.bool)
    boxes, crowd = look.scored["boxes"], look.crowd["boxes"]
    shared = torch.minimum(boxes[:, None, 2:], crowd[:, 2:])
    shared = (shared - torch.maximum(boxes[:, None, :2], crowd[:, :2])).clamp(min=0).prod(2)
    inside = shared >= FOUND * (boxes[:, 2:] - boxes[:, :2]).prod(1)[:, None]
    return (inside & (look.scored["labels"][:, None] == look.crowd["labels"])).any(1)


def assigned(ious: Tensor, labels: Tensor, found: Tensor) -> list[int]:
    """The object of each detection, -1 for none: as COCO's evaluation assigns them at IoU FOUND.

    ious: [T, D]; labels: [T]; found: the labels of the D detections, which are by falling score.
    Each takes the free object of its class that it overlaps most.
    """
    fits = torch.where((labels[:, None] == found) & (ious >= FOUND), ious, -1.0)
    owner = []
    for rank in range(len(found)):
        best = int(fits[:, rank].argmax()) if len(labels) else -1
        if best >= 0 and fits[best, rank] < 0:
            best = -1
        if best >= 0:
            fits[best] = -1.0
        owner.append(best)
    return owner


def _why_missed(look: Look, row: int, owner: list[int], anchors: Tensor, of_anchors: Tensor) -> str:
    """What stood in the way of an object that no detection was assigned to."""
    assert look.target is not None
    box, label = look.target["boxes"][row], int(look.target["labels"][row])
    found, least, own = look.candidates, look.least, look.class_names[label]
    shown = len(look.detections["scores"])
    iou = box_iou(box[None], found.boxes)[0]  # [C]
    same = found.labels == label

    near = same & (iou >= FOUND)
    taken = torch.zeros_like(near)
    taken[found.keep[: len(owner)][torch.tensor(owner, dtype=torch.int64) >= 0]] = True
    rows = (near & ~taken if (near & ~taken).any() else near).nonzero().flatten()
    if len(rows):
        best = int(rows[0])  # of the highest score
        kept = int(found.match[best])
        rank = found.keep.tolist().index(kept)
        other = owner[rank] if rank < len(owner) else -1
        what = f"its best box (score {found.scores[best]:.2f}, IoU {iou[best]:.2f})"
        low = f", and scores below {look.threshold:g}" * bool(found.scores[best] <= look.threshold)
        if kept != best:
            by = f"{'detection' if rank < shown else 'box'} {rank + 1}"
            whose = f", that of object {other + 1}," if other >= 0 else ""
            return f"Suppressed: {what} overlaps {by}{whose} too much{low}."
        if rank >= look.limit:
            return f"Cut off: {what} is not among the best {look.limit} of the image{low}."
        return f"Taken: {what} fits object {other + 1} better{low}."

    for rank, kept in enumerate(found.keep[:shown].tolist()):
        if owner[rank] < 0 and iou[kept] >= FOUND:
            name = look.class_names[int(found.labels[kept])]
            return (
                f"Wrong class: detection {rank + 1} says {name} (score {found.scores[kept]:.2f}, "
                f"IoU {iou[kept]:.2f}), not {own}."
            )

    scores = look.anatomy.logits[:, label].sigmoid()
    decoded = box_iou(box[None], look.anatomy.boxes)[0]
    hidden = scores[(decoded >= FOUND) & (scores > least)]
    if len(hidden):
        return (
            f"Crowded out: a box of score {hidden.max():.2f} lies on it, but is not among the "
            "candidates, the best of its level."
        )
    rows = (same & (iou >= 0.1)).nonzero().flatten()
    if len(rows):
        best = int(rows[iou[rows].argmax()])
        return (
            f"IoU too low: the nearest box of the class (score {found.scores[best]:.2f}) overlaps "
            f"it by {iou[best]:.2f}, and {FOUND:g} is needed."
        )
    if not len(anchors):
        highest = of_anchors.max().item() if len(of_anchors) else 0.0
        return f"Not learned: no anchor is matched to it, the best has IoU {highest:.2f}."
    return (
        f"Not seen: its anchors score at most {scores[anchors].max():.3f} for {own}, and a "
        f"candidate needs {least:g}."
    )
