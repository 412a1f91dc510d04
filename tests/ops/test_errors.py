"""Bad arguments: the wrappers say what was expected and what came; raw operators do not crash."""

import re

import pytest
import torch

from focaldet import AnchorGrid, ops

X = torch.randn(6, 4)
LABELS = torch.tensor([0, 1, 2, 3, -1, -2])
BOXES = torch.tensor([[0.0, 0.0, 9.0, 9.0], [5.0, 5.0, 20.0, 20.0]])
SCORES = torch.tensor([0.5, 0.6])
SPLITS = torch.tensor([0, 2])
SIZES = [(4, 4), (2, 2), (1, 1), (1, 1), (1, 1)]
ANCHORS = AnchorGrid.torchvision().at(SIZES, (32, 32))
CLS = [torch.randn(1, 9 * 2, h, w) for h, w in SIZES]
BOX = [torch.randn(1, 9 * 4, h, w) for h, w in SIZES]
SIZE = torch.tensor([[32, 32]])
TRUTH = (BOXES, torch.tensor([0, 1]), SPLITS)
NAN_BOXES = torch.tensor([[0.0, 0.0, 9.0, 9.0], [0.0, float("nan"), 1.0, 1.0]])


def loss(cls=CLS, box=BOX, anchors=ANCHORS, truth=TRUTH, **options):
    return ops.retinanet_loss(cls, box, anchors, *truth, **options)


CASES = {
    # focal loss
    "logits are integers": (lambda: ops.sigmoid_focal_loss(LABELS, LABELS), TypeError, "inputs: expected float16"),
    "logits are a list": (lambda: ops.sigmoid_focal_loss([1.0], X), TypeError, "inputs: expected a tensor, got list"),
    "targets are int32": (lambda: ops.sigmoid_focal_loss(X, LABELS.int()), TypeError, "targets: expected"),
    "targets of another shape": (lambda: ops.sigmoid_focal_loss(X, X[:5]), ValueError, "targets: expected targets of shape [6, 4]"),
    "labels of another shape": (lambda: ops.sigmoid_focal_loss(X, LABELS[:5]), ValueError, "targets: expected labels of shape [6]"),
    "label K": (lambda: ops.sigmoid_focal_loss(X, LABELS + 1), IndexError, "expected labels in [-2, 4), got 4"),
    "label -3": (lambda: ops.sigmoid_focal_loss(X, LABELS - 1), IndexError, "expected labels in [-2, 4), got -3"),
    "gamma below 0": (lambda: ops.sigmoid_focal_loss(X, LABELS, gamma=-0.5), ValueError, "gamma: expected a number of at least 0, got -0.5"),
    "gamma is NaN": (lambda: ops.sigmoid_focal_loss(X, LABELS, gamma=float("nan")), ValueError, "gamma: expected"),
    "gamma is a text": (lambda: ops.sigmoid_focal_loss(X, LABELS, gamma="2"), TypeError, "gamma: expected a number, got str"),
    "alpha above 1": (lambda: ops.sigmoid_focal_loss(X, LABELS, alpha=1.5), ValueError, "alpha: expected"),
    "alpha of another length": (lambda: ops.sigmoid_focal_loss(X, LABELS, torch.rand(3)), ValueError, "alpha: expected shape [4]"),
    "weights of another length": (lambda: ops.sigmoid_focal_loss(X, LABELS, class_weight=torch.rand(5)), ValueError, "class_weight: expected shape [4]"),
    "smoothing above 1": (lambda: ops.sigmoid_focal_loss(X, LABELS, label_smoothing=2.0), ValueError, "label_smoothing: expected a number in [0, 1]"),
    "unknown reduction": (lambda: ops.sigmoid_focal_loss(X, LABELS, reduction="avg"), ValueError, "reduction: expected one of none, sum, mean, got 'avg'"),
    "targets want a gradient": (lambda: ops.sigmoid_focal_loss(X, torch.rand(6, 4, requires_grad=True)), ValueError, "targets gets no gradient; pass targets.detach()"),
    "targets on another device": (lambda: ops.sigmoid_focal_loss(X, X.to("meta")), ValueError, "on one device, got cpu and meta"),
    # anchors and matching
    "a grid for anchors": (lambda: ops.generate_anchors(AnchorGrid.torchvision()), TypeError, "anchors: expected focaldet.Anchors (AnchorGrid.at)"),
    "levels missing": (lambda: AnchorGrid.torchvision().at(SIZES[:3], (32, 32)), ValueError, "expected 5 levels, got 3"),
    "strides missing": (lambda: AnchorGrid(((1, 2, 3, 4),), (8, 16)), ValueError, "strides: expected one for each of 1 levels, got 2"),
    "unknown strides": (lambda: AnchorGrid(((1, 2, 3, 4),), "auto"), ValueError, "strides: expected integers or \"image\", got 'auto'"),
    "uneven cell anchors": (lambda: AnchorGrid((((0, 0, 1, 1),), ()), (8, 16)), ValueError, "cell_anchors: expected the same number"),
    "boxes without corners": (lambda: ops.match_anchors(ANCHORS, BOXES[:, :3], SPLITS), ValueError, "gt_boxes: expected shape [T, 4]"),
    "anchors without corners": (lambda: ops.match_anchors(BOXES[:, :2], BOXES, SPLITS), ValueError, "anchors: expected shape [n, 4]"),
    "splits are int32": (lambda: ops.match_anchors(ANCHORS, BOXES, SPLITS.int()), TypeError, "gt_splits: expected int64"),
    "splits descend": (lambda: ops.match_anchors(ANCHORS, BOXES, torch.tensor([0, 2, 1])), ValueError, "gt_splits: expected values ascending from 0 to at most 2, got [0, 2, 1]"),
    "splits past the boxes": (lambda: ops.match_anchors(ANCHORS, BOXES, torch.tensor([0, 3])), ValueError, "at most 2, got [0, 3]"),
    "splits start late": (lambda: ops.count_foreground(ANCHORS, BOXES, torch.tensor([1, 2])), ValueError, "ascending from 0"),
    "no splits": (lambda: ops.match_anchors(ANCHORS, BOXES, SPLITS[:0]), ValueError, "gt_splits: expected shape [B + 1]"),
    "NaN ground truth": (lambda: ops.match_anchors(ANCHORS, NAN_BOXES, SPLITS), ValueError, "gt_boxes: expected finite boxes, got"),
    "thresholds crossed": (lambda: ops.match_anchors(ANCHORS, BOXES, SPLITS, 0.3, 0.4), ValueError, "bg_iou: expected at most fg_iou (0.3), got 0.4"),
    "unknown rule": (lambda: ops.match_anchors(ANCHORS, BOXES, SPLITS, low_quality="best"), ValueError, "low_quality: expected one of torchvision, mmdet, none"),
    # boxes
    "iou of 5 columns": (lambda: ops.box_iou(torch.rand(2, 5), BOXES), ValueError, "a: expected shape [N, 4]"),
    "iou of integers": (lambda: ops.box_iou(BOXES.long(), BOXES), TypeError, "a: expected float16"),
    "decode rows differ": (lambda: ops.decode_boxes(BOXES, BOXES[:1]), ValueError, "decode_boxes: expected deltas and anchors of one shape"),
    "encode rows differ": (lambda: ops.encode_boxes(BOXES, BOXES[:1]), ValueError, "encode_boxes: expected gt_boxes and anchors of one shape"),
    # suppression
    "nms of integers": (lambda: ops.nms(BOXES.long(), SCORES, 0.5), TypeError, "boxes: expected float16"),
    "scores missing": (lambda: ops.nms(BOXES, SCORES[:1], 0.5), ValueError, "scores: expected shape [2]"),
    "negative IoU": (lambda: ops.nms(BOXES, SCORES, -0.1), ValueError, "iou_threshold: expected a number in [0, 1], got -0.1"),
    "NaN IoU": (lambda: ops.nms(BOXES, SCORES, float("nan")), ValueError, "iou_threshold: expected"),
    "scores on another device": (lambda: ops.nms(BOXES, SCORES.to("meta"), 0.5), ValueError, "on one device"),
    "groups are floats": (lambda: ops.batched_nms(BOXES, SCORES, SCORES, 0.5), TypeError, "idxs: expected uint8"),
    "groups missing": (lambda: ops.batched_nms(BOXES, SCORES, SPLITS[:1], 0.5), ValueError, "idxs: expected shape [2]"),
    "flat boxes, padded": (lambda: ops.nms_padded(BOXES, SCORES, SPLITS, 0.5), ValueError, "boxes: expected shape [B, N, 4]"),
    "negative count": (lambda: ops.nms_padded(BOXES[None], SCORES[None], SPLITS[None], 0.5, 0.0, -1), ValueError, "max_detections: expected an integer of at least 0, got -1"),
    # RetinaNet's ends
    "one level missing": (lambda: loss(cls=CLS[:4]), ValueError, "expected 5 levels as the anchors have, got 4 and 5"),
    "channels not of A": (lambda: loss(cls=[m[:, :17] for m in CLS]), ValueError, "cls_logits: expected a multiple of 9 channels, one per cell anchor and class, got 17"),
    "a level of another size": (lambda: loss(box=[*BOX[:4], BOX[0]]), ValueError, "box_deltas[4]: expected shape [1, 36, 1, 1]"),
    "maps of two dtypes": (lambda: loss(box=[m.double() for m in BOX]), TypeError, "box_deltas[0]: expected float32"),
    "labels out of range": (lambda: loss(truth=(BOXES, torch.tensor([0, 2]), SPLITS)), IndexError, "gt_labels: expected labels in [0, 2), got 2"),
    "a split missing": (lambda: loss(truth=(BOXES, torch.tensor([0, 1]), torch.tensor([0, 1, 2]))), ValueError, "gt_splits: expected shape [2], got [3]"),
    "unknown box loss": (lambda: loss(box_loss="l2"), ValueError, "box_loss: expected one of smooth_l1, l1"),
    "unknown normalizer": (lambda: loss(normalizer="mean"), ValueError, "normalizer: expected one of batch, image, got 'mean'"),
    "beta below 0": (lambda: loss(beta=-1.0), ValueError, "beta: expected a number of at least 0"),
    "image sizes of floats": (lambda: ops.retinanet_postprocess(CLS, BOX, ANCHORS, SIZE.float()), TypeError, "image_sizes: expected int64"),
    "image sizes missing": (lambda: ops.retinanet_postprocess(CLS, BOX, ANCHORS, SIZE[:0]), ValueError, "image_sizes: expected shape [1, 2]"),
    "negative topk": (lambda: ops.retinanet_postprocess(CLS, BOX, ANCHORS, SIZE, topk=-1), ValueError, "topk: expected an integer of at least 0"),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_a_wrapper_says_what_was_expected_and_what_came(case):
    call, kind, message = CASES[case]
    with pytest.raises(kind, match=re.escape(message)) as caught:
        call()
    assert "\n" not in str(caught.value)


raw = torch.ops.focaldet
GRID = ANCHORS.schema_arguments()
FOCAL = (0.25, 2.0, None, None, 0.0)
MATCH = (BOXES, SPLITS, 0.5, 0.4, "none")

MALFORMED = {
    "labels too few": lambda: raw.sigmoid_focal_loss(X, LABELS[:2], *FOCAL),
    "logits are integers": lambda: raw.sigmoid_focal_loss(LABELS, LABELS, *FOCAL),
    "alpha too short": lambda: raw.sigmoid_focal_loss(X, LABELS, 0.2, 2.0, SCORES, None, 0.0),
    "gradient too short": lambda: raw.sigmoid_focal_loss_backward(SCORES, X, LABELS, *FOCAL),
    "odd grid": lambda: raw.generate_anchors(X, [1.0] * 4, [2, 2], [8], 0.0),
    "cells do not divide": lambda: raw.generate_anchors(X, [1.0] * 7, [2, 2], [8, 8], 0.0),
    "negative size": lambda: raw.generate_anchors(X, [1.0] * 4, [-2, 2], [8, 8], 0.0),
    "rows of 3": lambda: raw.match_anchors(BOXES[:, :3], [], [], [], 0.0, *MATCH),
    "splits outside": lambda: raw.match_anchors(
        None, *GRID, BOXES, torch.tensor([0, 99]), 0.5, 0.4, "none"
    ),
    "unknown rule": lambda: raw.match_anchors(None, *GRID, BOXES, SPLITS, 0.5, 0.4, "best"),
    "iou of 5 columns": lambda: raw.box_iou(torch.rand(2, 5), BOXES),
    "decode too short": lambda: raw.decode_boxes(BOXES, BOXES[:1]),
    "scores too short": lambda: raw.nms(BOXES, SCORES[:1], 0.5),
    "groups too short": lambda: raw.batched_nms(BOXES, SCORES, SPLITS[:1], 0.5),
    "padded labels too short": lambda: raw.nms_padded(
        BOXES[None], SCORES[None], SPLITS[None, :1], 0.5, 0.0, 3
    ),
    "negative padding": lambda: raw.nms_padded(
        BOXES[None], SCORES[None], SPLITS[None], 0.5, 0.0, -3
    ),
    "maps do not fit": lambda: raw.retinanet_postprocess(
        CLS, BOX[::-1], GRID[0], GRID[2], 0.0, SIZE, 0.05, 10, 0.5, 10
    ),
    "no maps": lambda: raw.retinanet_postprocess(
        [], [], GRID[0], GRID[2], 0.0, SIZE, 0.05, 10, 0.5, 10
    ),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_a_raw_operator_refuses_what_would_read_out_of_bounds(case):
    with pytest.raises(RuntimeError, match="focaldet: |expected"):
        MALFORMED[case]()


def test_values_are_checked_where_looking_is_free_of_waiting():
    """While tracing there are no values to look at; the same call compiles."""
    compiled = torch.compile(ops.sigmoid_focal_loss, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(X, LABELS), ops.sigmoid_focal_loss(X, LABELS))
