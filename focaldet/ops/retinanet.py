"""RetinaNet's two ends: from raw head outputs to the losses, and to the detections."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import reference
from . import _check
from .anchors import Anchors, generate_anchors
from .boxes import encode_boxes
from .focal_loss import sigmoid_focal_loss
from .match import match_anchors, rules

_ops = torch.ops.focaldet
BOX_LOSSES = ("smooth_l1", "l1")


def retinanet_loss(
    cls_logits: Sequence[Tensor],  # [B, A * K, H, W] by level
    box_deltas: Sequence[Tensor],  # [B, A * 4, H, W] by level
    anchors: Anchors,
    gt_boxes: Tensor,  # [T, 4]
    gt_labels: Tensor,  # int64 [T]
    gt_splits: Tensor,  # int64 [B + 1]
    *,
    alpha: float | Tensor = 0.25,
    gamma: float = 2.0,
    fg_iou: float = 0.5,
    bg_iou: float = 0.4,
    low_quality: str = "torchvision",
    box_loss: str = "smooth_l1",
    beta: float = 0.1,
    normalizer: str | Tensor = "batch",
) -> tuple[Tensor, Tensor, Tensor]:
    """RetinaNet's losses from the raw outputs of its head: matching, focal loss and box loss.

    Args:
        cls_logits, box_deltas: by level, [B, A*K, H, W] and [B, A*4, H, W], class channel a*K + k,
            box channel a*4 + i. channels_last logits are read in place, contiguous ones and the
            deltas through a copy.
        anchors: `AnchorGrid.at(...)` for these feature sizes.
        gt_boxes, gt_labels, gt_splits: all boxes of the batch, [x1, y1, x2, y2] in pixels, labels
            in [0, K); image i owns rows gt_splits[i] to gt_splits[i + 1], rows past the last are
            padding.
        alpha, gamma: of the focal loss. fg_iou, bg_iou, low_quality: see `match_anchors`.
        box_loss: "smooth_l1" (quadratic below beta) or "l1", of the encoded boxes of the
        foreground.
        normalizer: what both losses are divided by. "batch": max(1, foreground anchors of the
            batch), as detectron2; "image": by image, then averaged, as torchvision; or a tensor,
            e.g. averaged over ranks.

    Returns:
        classification and box_regression, float32 scalars (float64 for float64 maps), and
        n_foreground, int64, not differentiable. Gradients come back in the maps' shapes and dtypes.

    Raises:
        TypeError, ValueError, IndexError: saying what was expected and what came.

    Equivalent to `focaldet.reference.retinanet_loss`.
    """
    classes = _check.head_maps(cls_logits, box_deltas, anchors)
    batch = cls_logits[0].shape[0]
    _check.tensor(gt_boxes, "gt_boxes", ("T", 4))
    _check.tensor(gt_labels, "gt_labels", (gt_boxes.shape[0],), (torch.int64,))
    _check.splits(gt_splits, gt_boxes.shape[0])
    if gt_splits.shape[0] != batch + 1:
        raise ValueError(f"gt_splits: expected shape [{batch + 1}], got {list(gt_splits.shape)}")
    _check.labels_in_range(_check.used(gt_labels, gt_splits), "gt_labels", classes, low=0)
    rules(fg_iou, bg_iou, low_quality)
    _check.choice(box_loss, "box_loss", BOX_LOSSES)
    _check.number(beta, "beta", low=0)
    if isinstance(normalizer, Tensor):
        if normalizer.numel() != 1:
            raise ValueError(f"normalizer: expected one number, got {list(normalizer.shape)}")
    else:
        _check.choice(normalizer, "normalizer", ("batch", "image"))
    _check.same_device(
        "sigmoid_focal_loss",
        **_named(cls_logits, box_deltas),
        gt_boxes=gt_boxes,
        gt_labels=gt_labels,
        gt_splits=gt_splits,
        normalizer=normalizer if isinstance(normalizer, Tensor) else None,
    )

    cls_logits = [_KeepLayout.apply(level) for level in cls_logits]
    box_deltas = [_KeepLayout.apply(level) for level in box_deltas]
    matches = match_anchors(anchors, gt_boxes, gt_splits, fg_iou, bg_iou, low_quality)  # [B, n]
    foreground = matches >= 0
    per_image = foreground.sum(dim=1)
    # A row of padding stands for "no box", so that every shape is known beforehand.
    row = torch.where(foreground, matches + gt_splits[:-1, None], gt_boxes.shape[0])
    labels = torch.where(foreground, F.pad(gt_labels, (0, 1))[row], matches.long())
    boxes = F.pad(gt_boxes.float(), (0, 0, 0, 1))[row]

    deltas = reference.flatten_maps(list(box_deltas), anchors.per_position)
    table = generate_anchors(anchors, deltas.device).expand(batch, -1, 4)
    target = torch.where(foreground[..., None], encode_boxes(boxes, table), 0.0)
    deltas = torch.where(foreground[..., None], deltas, 0.0)  # not even a NaN of the background
    distance = reference.box_distance(deltas, target.to(_wide(deltas)), box_loss, beta)

    if isinstance(normalizer, Tensor) or normalizer == "batch" or batch == 0:
        scale = normalizer if isinstance(normalizer, Tensor) else per_image.sum().clamp(min=1)
        classification = _focal_sum(cls_logits, labels, classes, alpha, gamma) / scale
        regression = _sum(distance).sum() / scale
    else:
        scale = per_image.clamp(min=1) * batch
        sums = [
            _focal_sum([m[i : i + 1] for m in cls_logits], labels[i : i + 1], classes, alpha, gamma)
            for i in range(batch)
        ]
        classification = (torch.stack(sums) / scale).sum()
        regression = (_sum(distance) / scale).sum()
    return classification, regression, per_image.sum()


class _KeepLayout(torch.autograd.Function):
    """A map as it is, whose gradient comes back contiguous or channels_last as the map is: what the
    convolution behind it is fastest with."""

    @staticmethod
    def forward(ctx: Any, level: Tensor) -> Tensor:
        contiguous = level.is_contiguous()
        ctx.layout = torch.contiguous_format if contiguous else torch.channels_last
        return level.view_as(level)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad.contiguous(memory_format=ctx.layout)


def _sum(values: Tensor) -> Tensor:  # [B, ...] -> [B]
    """By image, in an order that the number of threads does not change: ATen splits a sum between
    threads if it has one result and more than 32,768 terms."""
    rows = values.flatten(1)
    blocks = -(-rows.shape[1] // 1024)
    rows = F.pad(rows, (0, blocks * 1024 - rows.shape[1]))
    return rows.unflatten(1, (blocks, 1024)).sum(2).sum(1)


def _named(cls_logits: Sequence[Tensor], box_deltas: Sequence[Tensor]) -> dict[str, Tensor]:
    """The maps by the names that messages call them."""
    maps = {"cls_logits": cls_logits, "box_deltas": box_deltas}
    return {f"{name}[{i}]": level for name in maps for i, level in enumerate(maps[name])}


def _wide(tensor: Tensor) -> torch.dtype:
    return torch.float64 if tensor.dtype == torch.float64 else torch.float32


def _focal_sum(
    cls_logits: Sequence[Tensor],
    labels: Tensor,  # [B, n]
    classes: int,
    alpha: float | Tensor,
    gamma: float,
) -> Tensor:
    """The summed focal loss, level by level, on views of the maps."""
    total, first = [], 0
    for logits in cls_logits:
        batch, channels, height, width = logits.shape
        split = logits.unflatten(1, (channels // classes, classes)).permute(0, 3, 4, 1, 2)
        n = height * width * (channels // classes)
        target = labels[:, first : first + n].reshape(split.shape[:-1])
        total.append(sigmoid_focal_loss(split, target, alpha, gamma, "sum"))
        first += n
    return torch.stack(total).sum()


def retinanet_postprocess(
    cls_logits: Sequence[Tensor],  # [B, A * K, H, W] by level
    box_deltas: Sequence[Tensor],  # [B, A * 4, H, W] by level
    anchors: Anchors,
    image_sizes: Tensor,  # int64 [B, 2]
    score_threshold: float = 0.05,
    topk: int = 1000,
    iou_threshold: float = 0.5,
    max_detections: int = 100,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Raw head outputs to detections: threshold, top-k, decoding, clipping and NMS per class.

    Args:
        cls_logits, box_deltas, anchors: as `retinanet_loss`; contiguous and channels_last maps are
            both read in place.
        image_sizes: (height, width) of each image before padding, for clipping.
        score_threshold: a class of an anchor is a candidate if sigma(logit) exceeds it.
        topk: the best candidates of each level that go on, by image.
        iou_threshold: of the NMS within each class, over the levels together.
        max_detections: M.

    Returns:
        boxes float32 [B, M, 4], [x1, y1, x2, y2] in pixels of the padded batch; scores float32 [B,
        M] by falling score; labels int64 [B, M]; counts int64 [B]. Past the count: 0, 0 and -1.
        Equal scores are ordered by flat index, everywhere. No gradient.

    Raises:
        TypeError, ValueError: saying what was expected and what came.

    Equivalent to `focaldet.reference.retinanet_postprocess`.
    """
    _check.head_maps(cls_logits, box_deltas, anchors)
    _check.tensor(image_sizes, "image_sizes", (cls_logits[0].shape[0], 2), (torch.int64,))
    _check.same_device(
        "retinanet_postprocess", **_named(cls_logits, box_deltas), image_sizes=image_sizes
    )
    _check.number(score_threshold, "score_threshold", finite=False)
    _check.number(iou_threshold, "iou_threshold", 0, 1)
    _check.count(topk, "topk")
    _check.count(max_detections, "max_detections")
    cells, _, strides, offset = anchors.schema_arguments()
    return _ops.retinanet_postprocess(
        [m.detach() for m in cls_logits],
        [m.detach() for m in box_deltas],
        cells,
        strides,
        offset,
        image_sizes,
        float(score_threshold),
        topk,
        float(iou_threshold),
        max_detections,
    )


@torch.library.register_fake("focaldet::retinanet_postprocess")
def _(
    cls_logits: list[Tensor],
    box_deltas: list[Tensor],
    cell_anchors: Sequence[float],
    strides: Sequence[int],
    offset: float,
    image_sizes: Tensor,
    score_threshold: float,
    topk: int,
    iou_threshold: float,
    max_detections: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    like, batch = cls_logits[0], cls_logits[0].shape[0]
    return (
        like.new_empty((batch, max_detections, 4), dtype=torch.float32),
        like.new_empty((batch, max_detections), dtype=torch.float32),
        like.new_empty((batch, max_detections), dtype=torch.int64),
        like.new_empty((batch,), dtype=torch.int64),
    )
