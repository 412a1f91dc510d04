"""Boxes before and after suppression."""

from __future__ import annotations

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from focaldet import ops

from .scene import NAMES, SIZE, candidates, scene
from .style import BLUE, COLOURS, GREY, INK, ORANGE, labelled, outline, panels, show, tag


def _on_scene(axes: list[Axes]) -> None:
    image, _, _ = scene()
    for panel in axes:
        show(panel, image, (SIZE, SIZE))


def _scores(axes: Axes, boxes: Tensor, scores: Tensor, colours: list[str]) -> None:
    """The score at the upper left corner of each box."""
    for (x1, y1, *_), score, colour in zip(boxes.tolist(), scores.tolist(), colours, strict=True):
        tag(axes, x1, max(y1, 7), f"{score:.2f}", colour)


def _rows(axes: Axes, boxes: Tensor, rows: list[int], colours: list[str]) -> None:
    """The number of a row at the upper left corner of its box."""
    for row in rows:
        x1, y1, *_ = boxes[row].tolist()
        tag(axes, x1, max(y1, 7), str(row), colours[row])


def nms() -> Figure:
    """One group."""
    boxes, scores, _ = candidates(8)
    keep = ops.nms(boxes, scores, 0.5)
    axes = panels(f"before: {len(boxes)} boxes", f"nms at 0.5 keeps {len(keep)}", height=3.6)
    _on_scene(axes)
    outline(axes[0], boxes, BLUE, 0.8)
    outline(axes[1], boxes[keep], BLUE, 1.8)
    _scores(axes[1], boxes[keep], scores[keep], [BLUE] * len(keep))
    return axes[0].figure


def batched_nms() -> Figure:
    """Two overlapping boxes of different classes both stay."""
    boxes, scores, labels = candidates(6)
    # Each box of the scene is taken for another class, too, with less score.
    boxes, labels = torch.cat([boxes, boxes + 3]), torch.cat([labels, (labels + 1) % len(NAMES)])
    scores = torch.cat([scores, 0.6 * scores])
    one, each = ops.nms(boxes, scores, 0.5), ops.batched_nms(boxes, scores, labels, 0.5)
    axes = panels(
        f"before: {len(boxes)} boxes",
        f"nms keeps {len(one)}",
        f"batched_nms keeps {len(each)}",
        height=2.9,
    )
    _on_scene(axes)
    colours = [COLOURS[k] for k in labels]
    everything = torch.arange(len(boxes))
    for panel, rows, width in zip(axes, (everything, one, each), (0.7, 1.8, 1.8), strict=True):
        outline(panel, boxes[rows], [colours[i] for i in rows], width)
    for k, name in enumerate(NAMES):
        axes[0].plot([], [], color=COLOURS[k], label=name)
    axes[0].legend(loc="upper center", bbox_to_anchor=(0.5, 0.0), ncols=3, handlelength=1)
    return axes[0].figure


def nms_padded() -> Figure:
    """Two images, one output of fixed shape."""
    boxes, scores, _ = candidates(4)
    both = torch.stack([boxes, boxes])
    given = torch.stack([scores, torch.where(boxes[:, 0] < SIZE / 2, scores, 0.0)])
    idx, count = ops.nms_padded(both, given, None, 0.5, score_threshold=0.5, max_detections=6)
    *axes, table = panels("image 0", "image 1", "idx [2, 6] and count [2]", height=2.7)
    _on_scene(axes)
    for image, panel in enumerate(axes):
        rows = idx[image, : count[image]]
        outline(panel, boxes[given[image] > 0.5], GREY, 0.6)
        outline(panel, boxes[rows], BLUE, 1.8)
        _rows(panel, boxes, rows.tolist(), [BLUE] * len(boxes))
    table.axis("off")
    table.set(xlim=(-0.5, 2.5), ylim=(7.6, -1.2))
    for image in range(2):
        table.text(image, -0.6, f"image {image}", ha="center")
        for place, row in enumerate(idx[image].tolist()):
            table.text(image, place + 0.4, str(row), ha="center", color=GREY if row < 0 else BLUE)
        table.text(image, 7, f"count {int(count[image])}", ha="center", color=INK)
    return table.figure


def nms_match() -> Figure:
    """Every box in the colour of the kept one that suppressed it."""
    boxes, scores, _ = candidates(8)
    keep, match = ops.nms_match(boxes, scores, 0.5)
    axes = panels("keep", "match: the colour of the suppressor", height=3.6)
    _on_scene(axes)
    by_row = {int(row): COLOURS[i % len(COLOURS)] for i, row in enumerate(keep)}
    colours = [by_row[int(row)] for row in match]
    outline(axes[0], boxes[keep], [by_row[int(row)] for row in keep], 1.8)
    outline(axes[1], boxes, colours, 0.8)
    _rows(axes[0], boxes, keep.tolist(), colours)
    return axes[0].figure


def soft_nms() -> Figure:
    """A row of boxes, each overlapping its neighbours, and what becomes of their scores."""
    x = torch.tensor([4.0, 20, 32, 66, 84])
    boxes = torch.stack([x, torch.full_like(x, 20), x + 40, torch.full_like(x, 70)], dim=1)
    scores = torch.tensor([0.95, 0.90, 0.70, 0.85, 0.60])
    scene_axes, bars = panels("boxes", "scores", height=2.7)
    show(scene_axes, None, (90, 128))
    outline(scene_axes, boxes, COLOURS[: len(x)], 1.8)
    for row, left in enumerate(x.tolist()):
        tag(scene_axes, left + 1, 19, str(row), COLOURS[row])
    given = {"given": scores}
    for method in ("linear", "gaussian"):
        keep, new = ops.soft_nms(boxes, scores, method=method)
        given[f"soft_nms, {method}"] = torch.zeros_like(scores).index_put_((keep,), new)
    kept = ops.nms(boxes, scores, 0.3)
    given["nms at 0.3"] = torch.zeros_like(scores).index_put_((kept,), scores[kept])
    colours = (GREY, BLUE, ORANGE, INK)
    for i, ((name, values), colour) in enumerate(zip(given.items(), colours, strict=True)):
        places = torch.arange(len(x)) + 0.2 * (i - 1.5)
        bars.bar(places.numpy(), values.numpy(), 0.18, color=colour, label=name)
    labelled(bars, "box", "score")
    bars.set_ylim(0, 1.6)
    bars.legend(ncols=2, loc="upper center")
    return bars.figure
