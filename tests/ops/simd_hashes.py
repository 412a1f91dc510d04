"""Run by test_simd.py at each SIMD level: prints the level, then a hash of each operator's results.

Sizes are no multiples of any vector length, so that the ends of loops run as well. The inputs are
sums and products only: torch's own exponentials depend on the level.
"""

from __future__ import annotations

import hashlib
import math

import torch
from torch import Tensor

from focaldet import _C, ops


def show(name: str, *tensors: Tensor) -> None:
    state = hashlib.sha256()
    for tensor in tensors:
        assert tensor.numel() > 0, f"{name} has nothing to show"
        state.update(tensor.detach().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    print(name, state.hexdigest(), sep="\t")


def focal_loss() -> None:
    x = torch.rand(501, 91) * 40 - 20
    x[0, :4] = torch.tensor([math.inf, -math.inf, 1e4, -1e4])
    soft = torch.rand(501, 91)
    forms = {"labels": torch.randint(-2, 91, (501,)), "hard": soft.round(), "soft": soft}
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        for gamma in (0, 1, 2, 5, 0.5, 3.7):
            for form, targets in forms.items():
                logits = x.to(dtype, copy=True).requires_grad_()
                t = targets.to(dtype) if targets.is_floating_point() else targets
                loss = ops.sigmoid_focal_loss(logits, t, 0.3, gamma)
                loss.backward(torch.ones_like(loss))
                total = ops.sigmoid_focal_loss(logits, t, 0.3, gamma, "sum")
                show(f"focal {form} {gamma} {dtype}", loss, logits.grad, total)


def softmax_focal_loss() -> None:
    for classes in (3, 91):
        x = torch.rand(501, classes) * 40 - 20
        x[0, :3] = torch.tensor([math.inf, -math.inf, 1e4])
        labels = torch.randint(-2, classes, (501,))
        for dtype in (torch.float32, torch.bfloat16):
            for gamma in (2, 3.7):
                logits = x.to(dtype, copy=True).requires_grad_()
                loss = ops.softmax_focal_loss(logits, labels, 0.3, gamma)
                loss.backward(torch.ones_like(loss))
                show(f"softmax focal {classes} {gamma} {dtype}", loss, logits.grad)


def main() -> None:
    print(_C.simd_level)
    torch.manual_seed(0)
    focal_loss()
    softmax_focal_loss()

    sizes = [(31, 45), (16, 23), (8, 12), (4, 6), (2, 3)]
    anchors = ops.AnchorGrid.paper().at(sizes, (248, 360))
    corner = torch.rand(300, 2) * 200
    boxes = torch.cat([corner, corner + 3 + torch.rand(300, 2) * 90], 1)
    splits = torch.tensor([0, 17, 17, 50])
    for rule in ("torchvision", "mmdet", "none"):
        match = ops.match_anchors(anchors, boxes[:50], splits, low_quality=rule)
        show(f"match {rule}", match)

    scores = torch.rand(300).mul(32).round()
    show("nms", ops.nms(boxes, scores, 0.4))
    show("nms float64", ops.nms(boxes.double(), scores.double(), 0.4))
    corner = torch.rand(2000, 2) * 900
    many = torch.cat([corner, corner + 3 + torch.rand(2000, 2) * 90], 1)
    for name, b in (("", many), (" float64", many.double())):
        show(f"nms of many{name}", ops.nms(b, many[:, 0], 0.4))
        show(f"nms_match{name}", *ops.nms_match(b, many[:, 0], 0.4))
        for method in ("linear", "gaussian"):
            show(f"soft_nms {method}{name}", *ops.soft_nms(b, many[:, 0], method=method))
    show("box_iou", ops.box_iou(boxes, boxes[:77]))
    show("decode_boxes", ops.decode_boxes(torch.rand(300, 4) * 8 - 4, boxes))

    logits = [torch.rand(2, 9 * 5, *size) * 20 - 14 for size in sizes]
    deltas = [torch.rand(2, 9 * 4, *size) * 3 - 1.5 for size in sizes]
    images = torch.tensor([[248, 360], [200, 300]])
    for layout in (torch.contiguous_format, torch.channels_last):
        for dtype in (torch.float32, torch.bfloat16, torch.float16, torch.float64):
            maps = [[m.to(dtype, memory_format=layout) for m in ms] for ms in (logits, deltas)]
            detections = ops.retinanet_postprocess(*maps, anchors, images, topk=150)
            show(f"postprocess {layout} {dtype}", *detections)


main()
