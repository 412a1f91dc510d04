"""`python -m benchmarks.gpu.subset [DTYPE ...]`: every CUDA operator on a few small inputs.

For compute-sanitizer, which slows kernels down up to a hundred times. The sizes are the smallest
that reach every path: packs that end inside a row, pointers off 16 bytes, tiles of NMS that wait
for others. Inputs are drawn on the CPU: nothing but the operators runs kernels.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from focaldet import AnchorGrid, ops
from focaldet.ops.choices import MODES

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
IMAGE, SIZES, CLASSES = (64, 96), [(8, 12), (4, 6)], 7
ANCHORS = AnchorGrid.torchvision(sizes=(16, 32)).at(SIZES, IMAGE)
Maps = tuple[list[Tensor], list[Tensor]]


def focal_loss(dtype: torch.dtype, device: torch.device) -> None:
    rows, classes = 37, 91
    logits = torch.randn(rows * classes + 1).to(device, dtype)
    labels = torch.randint(-2, classes, (rows,)).to(device)
    dense = torch.rand(rows, classes).to(device, dtype)
    per_class = torch.rand(classes).to(device)
    for start in (0, 1):  # aligned, and not
        x = logits[start : start + rows * classes].view(rows, classes).requires_grad_()
        for targets, options in (
            (labels, {}),
            (labels, {"gamma": 1.5, "alpha": per_class, "class_weight": per_class}),
            (dense, {"label_smoothing": 0.1}),
        ):
            for reduction in ("none", "sum"):
                loss = ops.sigmoid_focal_loss(x, targets, reduction=reduction, **options)
                torch.autograd.grad(loss, x, torch.ones(loss.shape).to(loss))
            ops.sigmoid_focal_loss(x.detach(), targets, reduction="sum", **options)


def softmax_focal_loss(dtype: torch.dtype, device: torch.device) -> None:
    for rows, classes in ((37, 91), (130, 3), (5, 1203)):
        logits = torch.randn(rows * classes + 1).to(device, dtype)
        labels = torch.randint(-2, classes, (rows,)).to(device)
        per_class = torch.rand(classes).to(device)
        for start in (0, 1):  # aligned, and not
            x = logits[start : start + rows * classes].view(rows, classes).requires_grad_()
            for options in ({}, {"gamma": 1.5, "alpha": per_class}):
                loss = ops.softmax_focal_loss(x, labels, **options)
                torch.autograd.grad(loss, x, torch.ones(rows).to(loss))


def boxes_of(n: int) -> Tensor:
    corner = torch.rand(n, 2) * 400
    return torch.cat([corner, corner + 10 + torch.rand(n, 2) * 40], dim=1)


def nms(dtype: torch.dtype, device: torch.device) -> None:
    for n in (0, 1, 65, 1025):
        boxes, scores = boxes_of(n).to(device, dtype), torch.rand(n).to(device, dtype)
        ops.nms(boxes, scores, 0.5)
        groups = torch.randint(3, (n,)).to(device)
        ops.batched_nms(boxes, scores, groups, 0.5)
        ops.nms_match(boxes, scores, 0.5)
        ops.nms_match(boxes, scores, 0.5, groups)
        for method in ("linear", "gaussian"):
            ops.soft_nms(boxes, scores, method=method)
            ops.soft_nms(boxes, scores, method=method, idxs=groups)
    for n, id_of in ((2049, 1), (65, 1 << 61)):  # more than a block sorts; ids of all 64 bits
        boxes, scores = boxes_of(n).to(device, dtype), torch.rand(n).to(device, dtype)
        ops.nms(boxes, scores, 0.5)
        ops.batched_nms(boxes, scores, id_of * torch.randint(3, (n,)).to(device), 0.5)
    boxes, scores = boxes_of(3 * 130).view(3, 130, 4), torch.rand(3, 130)
    labels = torch.randint(3, (3, 130))
    batch = boxes.to(device, dtype), scores.to(device, dtype), labels.to(device)
    ops.nms_padded(*batch, 0.5, 0.1, 100)


def box_arithmetic(dtype: torch.dtype, device: torch.device) -> None:
    a, b = boxes_of(33).to(device, dtype), boxes_of(33).to(device, dtype)
    ops.box_iou(a, b[:17])
    ops.decode_boxes(ops.encode_boxes(a, b), b)


def anchors(dtype: torch.dtype, device: torch.device) -> None:
    table = ops.generate_anchors(ANCHORS, device)
    gt_boxes = (boxes_of(9) / 8).to(device, dtype)
    splits = torch.tensor([0, 4, 4, 9]).to(device)
    for each in (ANCHORS, table):
        ops.match_anchors(each, gt_boxes, splits)
        ops.count_foreground(each, gt_boxes, splits, low_quality="mmdet")


def head_maps(layout: torch.memory_format, dtype: torch.dtype, device: torch.device) -> Maps:
    """Class and box maps by level. No leaves, which would not be overwritten: copies of some."""

    def maps(channels: int) -> list[Tensor]:
        levels = [torch.randn(2, ANCHORS.per_position * channels, *size) for size in SIZES]
        leaves = [level.to(dtype, memory_format=layout).requires_grad_() for level in levels]
        return [level.to(device, copy=True) for level in leaves]

    return maps(CLASSES), maps(4)


def detector(dtype: torch.dtype, device: torch.device) -> None:
    truth: list[Any] = [boxes_of(5) / 8, torch.randint(CLASSES, (5,)), torch.tensor([0, 2, 5])]
    truth = [each.to(device) for each in truth]
    for layout in (torch.contiguous_format, torch.channels_last):
        for mode in MODES:
            for box_loss in ("smooth_l1", "ciou"):
                logits, deltas = head_maps(layout, dtype, device)
                losses = ops.retinanet_loss(
                    logits, deltas, ANCHORS, *truth, mode=mode, box_loss=box_loss
                )
                torch.autograd.grad(losses[0] + losses[1], logits + deltas)


def postprocess(dtype: torch.dtype, device: torch.device) -> None:
    sizes = torch.tensor([IMAGE, (50, 60)]).to(device)
    for layout in (torch.contiguous_format, torch.channels_last):
        logits, deltas = head_maps(layout, dtype, device)
        ops.retinanet_postprocess(logits, deltas, ANCHORS, sizes)
        # More candidates than the buffers of the first level hold, all of one score.
        for level in logits:
            level.zero_()
        for topk, agnostic in ((5, False), (100, True)):
            ops.retinanet_postprocess(
                logits, deltas, ANCHORS, sizes, topk=topk, class_agnostic=agnostic
            )


FAMILIES = (focal_loss, softmax_focal_loss, nms, box_arithmetic, anchors, detector, postprocess)


def tour(device: torch.device, dtypes: Iterable[torch.dtype] = DTYPES) -> Iterator[str]:
    """Names what it has just called."""
    torch.manual_seed(0)
    for dtype in dtypes:
        for family in FAMILIES:
            family(dtype, device)
            yield f"{family.__name__}, {str(dtype).removeprefix('torch.')}"


def main(names: Sequence[str]) -> None:
    dtypes = [getattr(torch, name) for name in names] or DTYPES
    for name in tour(torch.device("cuda"), dtypes):
        torch.cuda.synchronize()
        print(f"done: {name}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
