"""Overlap, and the offsets from anchors to boxes."""

from __future__ import annotations

import math

import torch
from matplotlib.figure import Figure

from focaldet import ops

from .style import BLUE, COLOURS, GREY, INK, RED, labelled, outline, panels, show, tag


def box_iou() -> Figure:
    """Three boxes against two, and the matrix."""
    scene_axes, matrix_axes = panels("boxes a (solid) and b (dashed)", "box_iou(a, b)", height=2.8)
    a = torch.tensor([[8.0, 10, 60, 58], [30, 30, 80, 90], [96, 56, 120, 92]])
    b = torch.tensor([[14.0, 16, 66, 66], [52, 44, 112, 88]])
    show(scene_axes, None, (100, 128))
    outline(scene_axes, a, BLUE, 1.6)
    outline(scene_axes, b, RED, 1.6, "--")
    for name, boxes, colour in (("a", a, BLUE), ("b", b, RED)):
        for row, (x1, y1, x2, y2) in enumerate(boxes.tolist()):
            corner = (x1, y1) if name == "a" else (x2 - 16, y2)
            tag(scene_axes, *corner, f"{name}[{row}]", colour)
    iou = ops.box_iou(a, b)
    matrix_axes.imshow(iou.numpy(), cmap="Blues", vmin=0, vmax=1, interpolation="none")
    matrix_axes.grid(False)
    matrix_axes.set_xticks(range(len(b)), [f"b[{j}]" for j in range(len(b))])
    matrix_axes.set_yticks(range(len(a)), [f"a[{i}]" for i in range(len(a))])
    for i, row in enumerate(iou.tolist()):
        for j, value in enumerate(row):
            ink = INK if value < 0.6 else "white"
            matrix_axes.text(j, i, f"{value:.2f}", ha="center", va="center", color=ink)
    return matrix_axes.figure


def encode_boxes() -> Figure:
    """An anchor, a box, and the four numbers between them."""
    axes, text_axes = panels("an anchor (dashed) and its box", "encode_boxes", height=2.8)
    anchor = torch.tensor([20.0, 34, 76, 82])
    box = torch.tensor([42.0, 14, 112, 66])
    show(axes, None, (96, 128))
    outline(axes, anchor[None], GREY, 1.8, "--")
    outline(axes, box[None], BLUE, 1.8)
    centre, target = ((b[:2] + b[2:]) / 2 for b in (anchor, box))
    axes.annotate("", target.tolist(), centre.tolist(), arrowprops={"arrowstyle": "->"})
    for point, colour in ((centre, GREY), (target, BLUE)):
        axes.plot(*point.tolist(), "o", color=colour, markersize=4)
    dx, dy, dw, dh = ops.encode_boxes(box, anchor).tolist()
    assert torch.allclose(ops.decode_boxes(torch.tensor([dx, dy, dw, dh]), anchor), box)
    width, height = (anchor[2:] - anchor[:2]).tolist()
    wide, high = (box[2:] - box[:2]).tolist()
    lines = (
        f"dx = {target[0] - centre[0]:+.0f} / {width:.0f} = {dx:+.3f}",
        f"dy = {target[1] - centre[1]:+.0f} / {height:.0f} = {dy:+.3f}",
        f"dw = ln({wide:.0f} / {width:.0f}) = {dw:+.3f}",
        f"dh = ln({high:.0f} / {height:.0f}) = {dh:+.3f}",
    )
    text_axes.axis("off")
    for row, line in enumerate(lines):
        text_axes.text(0.05, 0.8 - 0.2 * row, line, fontsize=11, transform=text_axes.transAxes)
    return axes.figure


def decode_boxes() -> Figure:
    """What the clamp does to a box that grows."""
    (axes,) = panels("width of the decoded box", height=2.8, width=5.0)
    anchor = torch.tensor([0.0, 0, 1, 1])
    dw = torch.linspace(-2, 6, 161)
    deltas = torch.zeros(len(dw), 4)
    deltas[:, 2] = dw
    boxes = ops.decode_boxes(deltas, anchor.expand(len(dw), 4))
    axes.plot(dw, dw.exp(), "--", color=GREY, label="exp(dw)")
    axes.plot(dw, boxes[:, 2] - boxes[:, 0], color=COLOURS[0], label="decode_boxes")
    axes.axvline(math.log(1000 / 16), color=INK, linewidth=0.8)
    axes.text(math.log(1000 / 16) - 0.1, 0.2, "ln(1000 / 16)", ha="right")
    axes.set_yscale("log")
    labelled(axes, "dw", "widths of the anchor")
    return axes.figure
