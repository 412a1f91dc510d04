"""Anchors: whether the detector's grid has one for each box, and which grid would."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from .boxes import is_long, is_tiny
from .dataset import DataSet, Finding, Split
from .detector import FOREGROUND, Detector
from .registry import NOTE, WARNING, check_split

LEAST_RECALL = 0.95
FAR = 0.3  # IoU
BANDS = (0, 8, 16, 32, 64, 128, 256)  # pixels: sides of squares as large as the boxes, resized
ASPECTS: dict[str, tuple[float, float]] = {
    "wide (h/w < 1/1.5)": (0, 1 / 1.5),
    "square": (1 / 1.5, 1.5),
    "tall": (1.5, np.inf),
}

SIZES = (4, 5, 6, 8, 10, 12, 14, 16, 20, 24, 28, 32, 40, 48, 64)  # that are tried
SPREADS = (1.5, 2.0, 3.0, 4.0)  # of the ratios: 1/s, 1, s about their middle
USUAL = (0.5, 1.0, 2.0)
SAMPLE = 1_000  # boxes
IMAGES = 100  # whose foreground is counted
WORTH = 0.01  # of recall: for less nobody should write other ratios

Floats = npt.NDArray[np.float64]


@check_split(
    "anchor-recall",
    WARNING,
    f"Fewer than {LEAST_RECALL:.0%} of the boxes have an anchor with an IoU of {FOREGROUND:g}.",
    "Take the anchors that are suggested below: a box without one is learned from its best alone.",
)
def _(split: Split) -> Iterator[Finding]:
    if len(split.learned) and (recall := _recall(split.best_iou)) < LEAST_RECALL:
        yield Finding(f"{recall:.1%} of {len(split.learned):,} boxes", split.name)


@check_split(
    "box-far-from-anchors",
    NOTE,
    f"No anchor has an IoU of {FAR:g} with a box that is neither tiny nor long.",
    "As for anchor-recall.",
)
def _(split: Split) -> Iterator[Finding]:
    iou = dict(zip(split.learned.tolist(), split.best_iou.tolist(), strict=True))
    others = ~(is_tiny(split) | is_long(split))
    far = split.learned[others & (split.best_iou < FAR)].tolist()
    yield from split.objects(far, lambda row: f"best IoU {iou[row]:.2f}: {split.box(row)}")


class Suggestion(NamedTuple):
    size: int  # of the smallest anchors, as --anchor-size
    aspect_ratios: tuple[float, ...]
    recall: float  # of all boxes of the splits it is for
    sizes: list[int]


def describe(data: DataSet) -> dict[str, Any]:
    """What the report says of anchors, over all boxes of the first split: numbers and texts."""
    split = data.splits[0]
    corners, sizes = split.resized_corners, split.resized[split.owners]
    sides = corners[:, 2:] - corners[:, :2]
    side, aspect = np.sqrt(sides.prod(1)), sides[:, 1] / sides[:, 0]
    bands = {
        f"{low} to {high} px" if high < np.inf else f"over {low} px": (side >= low) & (side < high)
        for low, high in zip(BANDS, (*BANDS[1:], np.inf), strict=True)
    }
    bands |= {name: (aspect >= low) & (aspect < high) for name, (low, high) in ASPECTS.items()}
    found = suggest(data.detector, corners, sizes)
    return {
        "split": split.name,
        "boxes": len(corners),
        "recall": _recall(split.best_iou),
        "median_iou": float(np.median(split.best_iou)),
        "by": {
            name: {"boxes": int(rows.sum()), "recall": _recall(split.best_iou[rows])}
            for name, rows in bands.items()
            if rows.any()
        },
        "foreground": foreground(split),
        "suggestion": found._asdict(),
    }


def foreground(split: Split) -> dict[str, float]:
    """Over some images with boxes: foreground anchors, and background for each of them."""
    rows = np.flatnonzero(split.counts)
    rows = rows[:: max(1, len(rows) // IMAGES)][:IMAGES]
    order = np.argsort(split.owners, kind="stable")
    bounds = np.searchsorted(split.owners[order], np.stack([rows, rows + 1], 1))
    found = []
    for row, (start, end) in zip(rows, bounds, strict=True):
        height, width = split.resized[row].tolist()
        corners = split.resized_corners[order[start:end]]
        found.append(split.detector.foreground(corners, height, width))
    ours, every = np.array(found, np.float64).T
    median, ratio = np.median(ours), (every - ours).sum() / max(1, ours.sum())
    return {"images": len(found), "anchors": float(median), "background_to_one": float(ratio)}


def suggest(detector: Detector, corners: Floats, sizes: npt.NDArray[np.int64]) -> Suggestion:
    """The anchors that most boxes have one of: the size of the smallest, and ratios other than the
    usual where these gain WORTH or more. Tried on SAMPLE boxes; the recall is of all."""
    some = np.linspace(0, len(corners) - 1, min(SAMPLE, len(corners))).astype(np.int64)
    # One frame for all, so that each grid is laid out once; only its edge is not the images'.
    frame = np.broadcast_to(sizes.max(0), (len(some), 2))

    def quality(size: int, ratios: Sequence[float]) -> tuple[float, float]:
        iou = detector.with_anchors(size, ratios).best_iou(corners[some], frame)
        return round(_recall(iou), 3), float(iou.mean())

    size = max(SIZES, key=lambda size: quality(size, USUAL))
    sides = corners[:, 2:] - corners[:, :2]
    middle = round(float(np.median(sides[:, 1] / sides[:, 0])), 2)
    ratios = {
        tuple(round(m * r, 2) for r in (1 / spread, 1, spread))
        for spread in SPREADS
        for m in (1.0, middle)
    }
    near = [other for other in SIZES if 0.7 <= other / size <= 1.4]
    best = max(((s, r) for s in near for r in sorted(ratios)), key=lambda each: quality(*each))
    if quality(*best)[0] < quality(size, USUAL)[0] + WORTH:
        best = size, USUAL
    chosen = detector.with_anchors(*best)
    recall = _recall(chosen.best_iou(corners, sizes))
    return Suggestion(*best, recall, [best[0] * 2**n for n in range(len(detector.strides))])


def _recall(iou: Floats) -> float:
    return float((iou >= FOREGROUND).mean()) if len(iou) else 0.0
