"""Bad arguments: which exception, and what it says was expected and what came.

The raw operators say less, but raise instead of reading out of bounds.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch

from focaldet import ops
from focaldet.ops import AnchorGrid, Anchors

NAN, INF = math.nan, math.inf
Call = Callable[[], Any]

LOGITS, DENSE, LABELS = torch.zeros(2, 5, 3), torch.zeros(2, 5, 3), torch.zeros(2, 5).long()
BOXES, SCORES, GROUPS = torch.rand(4, 4), torch.rand(4), torch.zeros(4).long()
SPLITS = torch.tensor([0, 1, 4])
GRID = AnchorGrid.torchvision(sizes=(16, 32))
ANCHORS = GRID.at([(3, 4), (2, 2)], (48, 64))
MAPS = [torch.zeros(2, 9 * 3, 3, 4), torch.zeros(2, 9 * 3, 2, 2)]
DELTAS = [torch.zeros(2, 36, 3, 4), torch.zeros(2, 36, 2, 2)]
IMAGES = torch.tensor([[48, 64], [40, 50]])
ONE = torch.ones(())


def focal(x: Any = LOGITS, t: Any = DENSE, *args: Any, **options: Any) -> Call:
    return lambda: ops.sigmoid_focal_loss(x, t, *args, **options)


def match(anchors: Any = ANCHORS, boxes: Any = BOXES, splits: Any = SPLITS, **options: Any) -> Call:
    return lambda: ops.match_anchors(anchors, boxes, splits, **options)


def nms(boxes: Any = BOXES, scores: Any = SCORES, threshold: Any = 0.5) -> Call:
    return lambda: ops.nms(boxes, scores, threshold)


def soft(boxes: Any = BOXES, scores: Any = SCORES, **options: Any) -> Call:
    return lambda: ops.soft_nms(boxes, scores, **options)


def padded(*changed: Any, **options: Any) -> Call:
    whole = [BOXES[None], SCORES[None], GROUPS[None], 0.5]
    return lambda: ops.nms_padded(*[*changed, *whole[len(changed) :]], **options)


def loss(
    maps: Any = MAPS,
    deltas: Any = DELTAS,
    anchors: Any = ANCHORS,
    boxes: Any = BOXES,
    labels: Any = GROUPS,
    splits: Any = SPLITS,
    **options: Any,
) -> Call:
    return lambda: ops.retinanet_loss(maps, deltas, anchors, boxes, labels, splits, **options)


def post(
    maps: Any = MAPS, deltas: Any = DELTAS, anchors: Any = ANCHORS, sizes: Any = IMAGES, **o: Any
) -> Call:
    return lambda: ops.retinanet_postprocess(maps, deltas, anchors, sizes, **o)


def at(*sizes: Any, strides: Any = (8,), cells: Any = (((0.0, 0.0, 4.0, 4.0),),)) -> Call:
    return lambda: ops.generate_anchors(AnchorGrid(cells, strides).at(list(sizes), (32, 32)))


NAN_BOXES = torch.tensor([[0.0, 0, NAN, 1]] * 4)
BAD: list[tuple[Call, type[Exception], str]] = [
    # sigmoid_focal_loss
    (focal([1.0]), TypeError, "inputs: expected a tensor, got list"),
    (focal(LOGITS.int()), TypeError, "inputs: expected float16, bfloat16, float32, float64, got"),
    (focal(t=DENSE.int()), TypeError, "targets: expected float16"),
    (focal(t=DENSE[:1]), ValueError, "targets: expected targets of shape [2, 5, 3]"),
    (focal(t=LABELS[:, :4]), ValueError, "targets: expected labels of shape [2, 5] for logits"),
    (focal(LOGITS[0, 0, 0], LABELS[0, 0]), ValueError, "targets: expected labels"),
    (focal(t=LABELS + 3), IndexError, "targets: expected labels in [-2, 3), got 3"),
    (focal(t=LABELS - 3), IndexError, "targets: expected labels in [-2, 3), got -3"),
    (focal(t=DENSE.to("meta")), ValueError, "expected inputs and targets on one device, got cpu"),
    (focal(alpha="a"), TypeError, "alpha: expected a number, got str 'a'"),
    (focal(alpha=True), TypeError, "alpha: expected a number, got bool"),
    (focal(alpha=1.5), ValueError, "alpha: expected a number in"),
    (focal(alpha=NAN), ValueError, "alpha: expected a number"),
    (focal(alpha=torch.zeros(4)), ValueError, "alpha: expected shape [3], got"),
    (focal(alpha=torch.tensor(0.5)), ValueError, "alpha: expected a number or a tensor [K]"),
    (focal(alpha=torch.zeros(3).long()), TypeError, "alpha: expected float16"),
    (focal(gamma=-1), ValueError, "gamma: expected a number of at least 0, got -1"),
    (focal(gamma=INF), ValueError, "gamma: expected a number"),
    (focal(reduction="average"), ValueError, "reduction: expected one of none, sum, mean"),
    (focal(class_weight=torch.ones(2)), ValueError, "class_weight: expected shape [3]"),
    (focal(class_weight=torch.ones(3, device="meta")), ValueError, "on one device"),
    (focal(label_smoothing=1.5), ValueError, "label_smoothing: expected a number in [0, 1]"),
    (focal(t=DENSE.clone().requires_grad_()), ValueError, "targets gets no gradient"),
    # anchors
    (lambda: ops.generate_anchors(GRID), TypeError, "anchors: expected focaldet.Anchors"),
    (lambda: GRID.at([(1, 1)], (8, 8)), ValueError, "feature_sizes: expected 2 levels, got 1"),
    (at(strides=(8, 16)), ValueError, "strides: expected one for each of 1 levels, got 2"),
    (at(strides="pixels"), ValueError, 'strides: expected integers or "image", got'),
    (at(strides=(-8,)), ValueError, "strides: expected at least 1 pixel, got [-8]"),
    (at(cells=()), ValueError, "cell_anchors: expected the same number of anchors"),
    (at(cells=((), ())), ValueError, "cell_anchors: expected the same number of anchors"),
    (at((-1, 2)), ValueError, "feature_sizes"),
    (at((1.5, 2)), TypeError, "feature_sizes"),
    (at((1, 2, 3)), ValueError, "feature_sizes"),
    (at((1 << 32, 1 << 32)), ValueError, "feature_sizes"),
    (at((1, 2), strides=(8.5,)), TypeError, "strides"),
    (at((1, 2), cells=(((0.0, 0.0, 1.0),),)), ValueError, "cell_anchors"),
    # match_anchors and count_foreground
    (match(GRID), TypeError, "anchors: expected focaldet.Anchors"),
    (match(BOXES[:, :3]), ValueError, "anchors: expected shape [n, 4]"),
    (match(BOXES.long()), TypeError, "anchors: expected float16"),
    (match(boxes=BOXES[0]), ValueError, "gt_boxes: expected shape [T, 4]"),
    (match(boxes=BOXES.long()), TypeError, "gt_boxes: expected float16"),
    (match(boxes=NAN_BOXES), ValueError, "gt_boxes: expected finite boxes, got [0.0, 0.0, nan"),
    (match(boxes=BOXES / 0), ValueError, "gt_boxes: expected finite boxes"),
    (match(boxes=BOXES.to("meta")), ValueError, "on one device"),
    (match(splits=SPLITS.int()), TypeError, "gt_splits: expected int64"),
    (match(splits=SPLITS[None]), ValueError, "gt_splits: expected shape [B + 1]"),
    (match(splits=SPLITS[:0]), ValueError, "gt_splits: expected shape [B + 1]"),
    (match(splits=SPLITS + 1), ValueError, "gt_splits: expected values ascending from 0"),
    (match(splits=SPLITS * 2), ValueError, "at most 4, got [0, 2, 8]"),
    (match(splits=SPLITS.flip(0)), ValueError, "gt_splits: expected values ascending from 0"),
    (match(fg_iou=1.1), ValueError, "fg_iou: expected a number in [0, 1]"),
    (match(bg_iou=-0.1), ValueError, "bg_iou: expected a number in [0, 1]"),
    (match(fg_iou=0.3), ValueError, "bg_iou: expected at most fg_iou (0.3), got 0.4"),
    (match(fg_iou=NAN), ValueError, "fg_iou: expected a number"),
    (match(low_quality="all"), ValueError, "low_quality: expected one of torchvision, mmdet, none"),
    (lambda: ops.count_foreground(ANCHORS, BOXES, SPLITS + 1), ValueError, "gt_splits"),
    # boxes
    (lambda: ops.box_iou(BOXES, SCORES), ValueError, "b: expected shape [M, 4]"),
    (lambda: ops.box_iou(BOXES.long(), BOXES), TypeError, "a: expected float16"),
    (lambda: ops.box_iou(BOXES, BOXES.to("meta")), ValueError, "on one device"),
    (lambda: ops.box_iou(BOXES.clone().requires_grad_(), BOXES), ValueError, "a gets no gradient"),
    (lambda: ops.encode_boxes(BOXES, BOXES[:2]), ValueError, "of one shape [..., 4], got [4, 4]"),
    (lambda: ops.decode_boxes(SCORES[:3], SCORES[:3]), ValueError, "of one shape [..., 4]"),
    (lambda: ops.decode_boxes(BOXES.long(), BOXES), TypeError, "deltas: expected float16"),
    # nms
    (nms(BOXES[:, :3]), ValueError, "boxes: expected shape [N, 4]"),
    (nms(BOXES.long()), TypeError, "boxes: expected float16"),
    (nms(scores=SCORES[:3]), ValueError, "scores: expected shape [4]"),
    (nms(scores=SCORES.long()), TypeError, "scores: expected float16"),
    (nms(scores=SCORES.to("meta")), ValueError, "on one device"),
    (nms(threshold="0.5"), TypeError, "iou_threshold: expected a number"),
    (nms(threshold=-0.1), ValueError, "iou_threshold: expected a number in [0, 1], got -0.1"),
    (nms(threshold=1.1), ValueError, "iou_threshold: expected a number in [0, 1]"),
    (nms(threshold=NAN), ValueError, "iou_threshold: expected a number in [0, 1], got nan"),
    (lambda: ops.batched_nms(BOXES, SCORES, GROUPS[:2], 0.5), ValueError, "idxs: expected shape"),
    (lambda: ops.batched_nms(BOXES, SCORES, None, 0.5), TypeError, "idxs: expected a tensor"),
    (lambda: ops.nms_match(BOXES, SCORES, 0.5, GROUPS[:2]), ValueError, "idxs: expected shape"),
    (lambda: ops.nms_match(BOXES, SCORES, -1), ValueError, "iou_threshold: expected a number in"),
    (soft(BOXES.long()), TypeError, "boxes: expected float16"),
    (soft(scores=SCORES[:3]), ValueError, "scores: expected shape [4]"),
    (soft(idxs=SCORES), TypeError, "idxs: expected uint8"),
    (soft(idxs=GROUPS.to("meta")), ValueError, "on one device"),
    (soft(iou_threshold=NAN), ValueError, "iou_threshold: expected a number in [0, 1], got nan"),
    (soft(sigma=0.0), ValueError, "sigma: expected a number above 0, got 0"),
    (soft(sigma=-1), ValueError, "sigma: expected a number of at least 0, got -1"),
    (soft(min_score=-0.1), ValueError, "min_score: expected a number of at least 0, got -0.1"),
    (soft(method="naive"), ValueError, "method: expected one of linear, gaussian, got 'naive'"),
    (lambda: ops.batched_nms(BOXES, SCORES, SCORES, 0.5), TypeError, "idxs: expected uint8"),
    (padded(BOXES), ValueError, "boxes: expected shape [B, N, 4]"),
    (padded(BOXES[None], SCORES), ValueError, "scores: expected shape [1, 4]"),
    (padded(BOXES[None], SCORES[None], GROUPS), ValueError, "labels: expected shape [1, 4]"),
    (padded(max_detections=-1), ValueError, "max_detections: expected an integer of at least 0"),
    (padded(max_detections=1.5), TypeError, "max_detections: expected an integer"),
    (padded(score_threshold=NAN), ValueError, "score_threshold: expected a number"),
    # retinanet_loss
    (loss(MAPS[:1]), ValueError, "expected 2 levels as the anchors have, got 1 and 2"),
    (loss(anchors=GRID), TypeError, "anchors: expected focaldet.Anchors"),
    (loss([m[:, :25] for m in MAPS]), ValueError, "expected a multiple of 9 channels"),
    (loss([m[:, :0] for m in MAPS]), ValueError, "expected a multiple of 9 channels"),
    (loss([MAPS[0], MAPS[1][:, :9]]), ValueError, "cls_logits[1]: expected shape [2, 27, 2, 2]"),
    (loss([MAPS[0][..., :2], MAPS[1]]), ValueError, "cls_logits[0]: expected shape [2, 27, 3, 4]"),
    (loss([MAPS[0], MAPS[1].half()]), TypeError, "cls_logits: expected one dtype, got"),
    (loss(deltas=MAPS), ValueError, "box_deltas[0]: expected shape [2, 36, 3, 4]"),
    (loss(deltas=[m.to("meta") for m in DELTAS]), ValueError, "on one device"),
    (loss(labels=GROUPS[:3]), ValueError, "gt_labels: expected shape [4]"),
    (loss(labels=GROUPS.int()), TypeError, "gt_labels: expected int64"),
    (loss(labels=GROUPS + 3), IndexError, "gt_labels: expected labels in [0, 3), got 3"),
    (loss(labels=GROUPS - 1), IndexError, "gt_labels: expected labels in [0, 3), got -1"),
    (loss(labels=GROUPS.to("meta")), ValueError, "on one device"),
    (loss(boxes=NAN_BOXES), ValueError, "gt_boxes: expected finite boxes"),
    (loss(splits=SPLITS[:2]), ValueError, "gt_splits: expected shape [3]"),
    (loss(box_loss="iou"), ValueError, "box_loss: expected one of smooth_l1, l1, giou"),
    (loss(mode="fast"), ValueError, "mode: expected one of save_gradient, recompute, overwrite"),
    (loss(mode="recompute", grad_scale=ONE), ValueError, "grad_scale: of no use with mode"),
    (loss(grad_scale=torch.ones(2)), ValueError, "grad_scale: expected one number"),
    (loss(alpha=torch.ones(2)), ValueError, "alpha: expected shape [3]"),
    (loss(beta=-1), ValueError, "beta: expected a number of at least 0"),
    (loss(gamma=-1), ValueError, "gamma: expected a number of at least 0"),
    (loss(normalizer="anchors"), ValueError, "normalizer: expected one of batch, image"),
    (loss(normalizer=torch.ones(2)), ValueError, "normalizer"),
    (loss(normalizer=torch.ones((), device="meta")), ValueError, "on one device"),
    # retinanet_postprocess
    (post([]), ValueError, "expected 2 levels as the anchors have, got 0 and 2"),
    (post(deltas=[m.half() for m in DELTAS]), TypeError, "box_deltas[0]: expected float32"),
    (post(sizes=IMAGES.float()), TypeError, "image_sizes: expected int64"),
    (post(sizes=IMAGES[:1]), ValueError, "image_sizes: expected shape [2, 2]"),
    (post(sizes=IMAGES.to("meta")), ValueError, "on one device"),
    (post(topk=-1), ValueError, "topk: expected an integer of at least 0"),
    (post(iou_threshold=2), ValueError, "iou_threshold: expected a number in [0, 1]"),
    (post(score_threshold=NAN), ValueError, "score_threshold: expected a number"),
    (post(max_detections=2.0), TypeError, "max_detections: expected an integer"),
]  # fmt: skip


@pytest.mark.parametrize("call,kind,text", BAD, ids=[f"{i}-{b[2]}" for i, b in enumerate(BAD)])
def test_bad_arguments(call: Call, kind: type[Exception], text: str) -> None:
    with pytest.raises(kind) as caught:
        call()
    assert type(caught.value) is kind, "another kind of error, by chance a subclass"
    message = str(caught.value)
    assert text in message and "\n" not in message
    assert len(message) < 300, "more than one reads"


def test_the_arguments_of_the_table_are_good() -> None:
    """So that each bad call is bad in the one way it is meant to be."""
    for call in (focal(), focal(t=LABELS), match(), nms(), padded(), loss(), post(), at((2, 2))):
        call()


RAW = torch.ops.focaldet
GRID_NUMBERS = ([0.0, 0.0, 8.0, 8.0], [2, 2], [8, 8], 0.0)
RULES = (0.5, 0.4, "none")
HEAD = ([torch.zeros(1, 3, 2, 2)], [torch.zeros(1, 4, 2, 2)], [0.0, 0.0, 8.0, 8.0], [8, 8], 0.0)
REST = (0.05, 10, 0.5, 10, False)


def raw_focal(x: Any, t: Any, alpha: Any = None, weight: Any = None) -> Call:
    return lambda: RAW.sigmoid_focal_loss(x, t, 0.25, 2.0, alpha, weight, 0.0, "focal")


def raw_grid(cells: list[float], sizes: list[int], strides: list[int]) -> Call:
    return lambda: RAW.generate_anchors(torch.empty(0), cells, sizes, strides, 0.0)


def raw_match(*changed: Any) -> Call:
    whole = [None, *GRID_NUMBERS, BOXES, SPLITS, *RULES]
    return lambda: RAW.match_anchors(*[*changed, *whole[len(changed) :]])


def raw_soft(*changed: Any) -> Any:
    whole = [SCORES, None, 0.3, 0.5, 0.001, "linear"]
    return RAW.soft_nms(BOXES, *[*changed, *whole[len(changed) :]])


def raw_post(*changed: Any) -> Call:
    whole = [*HEAD, IMAGES[:1], *REST]
    return lambda: RAW.retinanet_postprocess(*[*changed, *whole[len(changed) :]])


CELL = [0.0, 0.0, 8.0, 8.0]
MALFORMED: dict[str, Call] = {
    "focal: integer logits": raw_focal(LOGITS.int(), DENSE),
    "focal: too few labels": raw_focal(LOGITS, LABELS[:1]),
    "focal: too few targets": raw_focal(LOGITS, DENSE[:1]),
    "focal: labels of a scalar": raw_focal(LOGITS[0, 0, 0], LABELS[0, 0]),
    "focal: too few alphas": raw_focal(LOGITS, DENSE, torch.ones(2)),
    "focal: too few weights": raw_focal(LOGITS, DENSE, None, torch.ones(2)),
    "focal: too small a gradient": lambda: RAW.sigmoid_focal_loss_backward(
        torch.ones(3), LOGITS, DENSE, 0.25, 2.0, None, None, 0.0, "focal"
    ),
    "grid: a height without a width": raw_grid(CELL, [2], [8]),
    "grid: too few strides": raw_grid(CELL, [2, 2, 1, 1], [8, 8]),
    "grid: five numbers a cell": raw_grid([*CELL, 1.0], [2, 2], [8, 8]),
    "grid: no equal share for every level": raw_grid(CELL * 3, [2, 2, 1, 1], [8, 8, 8, 8]),
    "grid: negative sizes": raw_grid(CELL, [-2, 2], [8, 8]),
    "grid: sizes whose product overflows": raw_grid(CELL, [1 << 32, 1 << 32], [8, 8]),
    "match: boxes of three": raw_match(None, *GRID_NUMBERS, BOXES[:, :3]),
    "match: splits past the boxes": raw_match(None, *GRID_NUMBERS, BOXES[:2]),
    "match: negative splits": raw_match(None, *GRID_NUMBERS, BOXES, SPLITS - 1),
    "match: descending splits": raw_match(None, *GRID_NUMBERS, BOXES, SPLITS.flip(0)),
    "match: int32 splits": raw_match(None, *GRID_NUMBERS, BOXES, SPLITS.int()),
    "match: no splits": raw_match(None, *GRID_NUMBERS, BOXES, SPLITS[:0]),
    "match: anchors of three": raw_match(BOXES[:, :3]),
    "match: unknown rule": raw_match(None, *GRID_NUMBERS, BOXES, SPLITS, 0.5, 0.4, "all"),
    "match: sizes whose product overflows": raw_match(None, CELL, [1 << 32, 1 << 32]),
    "iou: boxes of three": lambda: RAW.box_iou(BOXES, BOXES[:, :3]),
    "iou: a batch": lambda: RAW.box_iou(BOXES[None], BOXES[None]),
    "encode: fewer anchors": lambda: RAW.encode_boxes(BOXES, BOXES[:3]),
    "decode: rows of three": lambda: RAW.decode_boxes(BOXES[:, :3], BOXES[:, :3]),
    "decode: a scalar": lambda: RAW.decode_boxes(SCORES[0], SCORES[0]),
    "nms: boxes of three": lambda: RAW.nms(BOXES[:, :3], SCORES, 0.5),
    "nms: too few scores": lambda: RAW.nms(BOXES, SCORES[:2], 0.5),
    "batched_nms: too few groups": lambda: RAW.batched_nms(BOXES, SCORES, GROUPS[:1], 0.5),
    "nms: a negative threshold": lambda: RAW.nms(BOXES, SCORES, -0.5),
    "nms: a threshold of NaN": lambda: RAW.nms(BOXES, SCORES, NAN),
    "batched_nms: a threshold of NaN": lambda: RAW.batched_nms(BOXES, SCORES, GROUPS, NAN),
    "nms_match: too few groups": lambda: RAW.nms_match(BOXES, SCORES, GROUPS[:1], 0.5),
    "nms_match: a negative threshold": lambda: RAW.nms_match(BOXES, SCORES, None, -0.5),
    "soft_nms: too few scores": lambda: raw_soft(SCORES[:2]),
    "soft_nms: too few groups": lambda: raw_soft(SCORES, GROUPS[:1]),
    "soft_nms: a negative threshold": lambda: raw_soft(SCORES, None, -0.5),
    "soft_nms: a negative score": lambda: raw_soft(SCORES, None, 0.3, 0.5, -1.0),
    "soft_nms: a sigma of 0": lambda: raw_soft(SCORES, None, 0.3, 0.0),
    "soft_nms: a sigma of NaN": lambda: raw_soft(SCORES, None, 0.3, NAN),
    "nms_padded: a score threshold of NaN": lambda: RAW.nms_padded(
        BOXES[None], SCORES[None], None, 0.5, NAN, 5
    ),
    "soft_nms: unknown method": lambda: raw_soft(SCORES, None, 0.3, 0.5, 0.001, "naive"),
    "nms_padded: a threshold of NaN": lambda: RAW.nms_padded(
        BOXES[None], SCORES[None], None, NAN, 0.0, 5
    ),
    "nms_padded: no batch": lambda: RAW.nms_padded(BOXES, SCORES, GROUPS, 0.5, 0.0, 5),
    "nms_padded: too few labels": lambda: RAW.nms_padded(
        BOXES[None], SCORES[None], GROUPS[None, :2], 0.5, 0.0, 5
    ),
    "nms_padded: negative length": lambda: RAW.nms_padded(
        BOXES[None], SCORES[None], GROUPS[None], 0.5, 0.0, -5
    ),
    "postprocess: no maps": raw_post([], []),
    "postprocess: fewer deltas": raw_post(HEAD[0], []),
    "postprocess: deltas of another size": raw_post(HEAD[0], [torch.zeros(1, 4, 2, 1)]),
    "postprocess: deltas of another dtype": raw_post(HEAD[0], [torch.zeros(1, 4, 2, 2).half()]),
    "postprocess: deltas of another batch": raw_post(HEAD[0], [torch.zeros(2, 4, 2, 2)]),
    "postprocess: too few deltas": raw_post(HEAD[0], [torch.zeros(1, 3, 2, 2)]),
    "postprocess: no cells": raw_post(*HEAD[:2], []),
    "postprocess: too few strides": raw_post(*HEAD[:3], [8]),
    "postprocess: image sizes of three": raw_post(*HEAD, torch.zeros(1, 3).long()),
    "postprocess: scalar image sizes": raw_post(*HEAD, torch.tensor(3)),
    "postprocess: float image sizes": raw_post(*HEAD, torch.zeros(1, 2)),
    "postprocess: another batch of image sizes": raw_post(*HEAD, IMAGES),
    "postprocess: negative topk": raw_post(*HEAD, IMAGES[:1], 0.05, -1),
    "postprocess: negative length": raw_post(*HEAD, IMAGES[:1], 0.05, 10, 0.5, -1),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_raw_operators_raise_instead_of_crashing(case: str) -> None:
    with pytest.raises(RuntimeError, match="focaldet: "):  # not for a wrong number of arguments
        MALFORMED[case]()


@pytest.mark.simt
@pytest.mark.parametrize(
    "case",
    [
        case
        for case in MALFORMED
        if case.startswith(("focal", "grid", "nms", "batched_nms", "soft_nms", "postprocess"))
    ],
)
def test_raw_operators_of_cuda_raise_instead_of_crashing(case: str, simt: torch.device) -> None:
    """Those that have a kernel there; the others are plain torch."""
    with pytest.raises(RuntimeError, match="focaldet: "):  # not for a wrong number of arguments
        MALFORMED[case]()


def test_anchors_without_levels(device: torch.device) -> None:
    assert ops.generate_anchors(Anchors((), (), (), 0.0), device).shape == (0, 4)
