"""Anchors, matches and detections on a generated scene."""

from __future__ import annotations

import torch
from matplotlib.figure import Figure

from focaldet import ops

from .scene import NAMES, SIZE, anchors, head_maps, scene
from .style import COLOURS, GREY, INK, outline, panels, show, tag


def generate_anchors() -> Figure:
    """The nine anchors of one position on two levels, coloured by ratio."""
    image, _, _ = scene()
    grid = anchors()
    axes = panels("level 0: stride 8", "level 1: stride 16", height=3.6)
    for panel, level, (y, x) in zip(axes, grid.levels(), ((5, 4), (4, 4)), strict=True):
        height, width = level.feature_sizes[0]
        table = ops.generate_anchors(level).view(height, width, grid.per_position, 4)
        show(panel, image, (SIZE, SIZE))
        centres = (table[:, :, 0, :2] + table[:, :, 0, 2:]) / 2
        panel.plot(*centres.flatten(0, 1).T, ".", color=INK, markersize=2.5)
        # Anchors of a cell: by scale, then ratio.
        outline(panel, table[y, x], [COLOURS[a % 3] for a in range(grid.per_position)], 1.3)
        panel.plot(*centres[y, x], "o", color=INK, markersize=5)
        panel.set_xlabel(f"{height} x {width} positions, each with 3 scales of 3 ratios")
    return axes[0].figure


def match_anchors() -> Figure:
    """Who is foreground for which box, and who is ignored."""
    image, truth, _ = scene()
    table = ops.generate_anchors(anchors())
    match = ops.match_anchors(anchors(), truth, torch.tensor([0, len(truth)]))[0]
    foreground, ignored = match >= 0, match == -2
    axes = panels(
        f"foreground: {int(foreground.sum())} of {len(table)} anchors",
        f"ignored: {int(ignored.sum())}",
        height=3.6,
    )
    for panel in axes:
        show(panel, image, (SIZE, SIZE))
    by_box = [COLOURS[row % len(COLOURS)] for row in range(len(truth))]
    outline(axes[0], table[foreground], [by_box[row] for row in match[foreground]], 0.9)
    outline(axes[1], table[ignored], GREY, 0.7)
    for panel in axes:
        outline(panel, truth, INK, 3.2)
        outline(panel, truth, by_box, 2.0)
    return axes[0].figure


def retinanet_postprocess() -> Figure:
    """What passes the threshold, and what is left of it."""
    image, _, _ = scene()
    logits, deltas = head_maps()
    grid = anchors()
    threshold = 0.4
    boxes, scores, labels, counts = ops.retinanet_postprocess(
        logits, deltas, grid, torch.tensor([[SIZE, SIZE]]), score_threshold=threshold
    )
    kept = int(counts[0])
    logit_rows, delta_rows = (
        torch.cat([level[0].movedim(0, -1).reshape(-1, columns) for level in maps])
        for maps, columns in ((logits, len(NAMES)), (deltas, 4))
    )
    anchor, label = (logit_rows.sigmoid() > threshold).nonzero().T
    raw = ops.decode_boxes(delta_rows[anchor], ops.generate_anchors(grid)[anchor])
    axes = panels(
        f"scores above {threshold}: {len(raw)} of {logit_rows.numel()}",
        f"detections: {kept}",
        height=3.6,
    )
    for panel in axes:
        show(panel, image, (SIZE, SIZE))
    outline(axes[0], raw, [COLOURS[k] for k in label], 0.7)
    outline(axes[1], boxes[0, :kept], [COLOURS[k] for k in labels[0, :kept]], 1.8)
    for (x1, y1, *_), score, k in zip(
        boxes[0, :kept].tolist(), scores[0].tolist(), labels[0].tolist(), strict=False
    ):
        tag(axes[1], x1, max(y1, 7), f"{NAMES[k]} {score:.2f}", COLOURS[k])
    return axes[0].figure
