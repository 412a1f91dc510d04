"""From the raw outputs of RetinaNet's head to its detections."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .. import torch_ops as _ops
from . import _check
from .anchors import Anchors


def retinanet_postprocess(
    cls_logits: Sequence[Tensor],  # [B, A * K, H, W] by level
    box_deltas: Sequence[Tensor],  # [B, A * 4, H, W] by level
    anchors: Anchors,
    image_sizes: Tensor,  # int64 [B, 2]
    score_threshold: float = 0.05,
    topk: int = 1000,
    iou_threshold: float = 0.5,
    max_detections: int = 100,
    class_agnostic: bool = False,
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
        class_agnostic: NMS over all classes together: a box suppresses those of other classes, too.

    On CUDA the host never waits, the number of launches depends on shapes and threshold alone, and
    a CUDA graph may capture it; at most 8 levels and 192 cell anchors over all of them.

    Returns:
        boxes float32 [B, M, 4], [x1, y1, x2, y2] in pixels of the padded batch; scores float32 [B,
        M] by falling score; labels int64 [B, M]; counts int64 [B]. Past the count: 0, 0 and -1.
        Equal scores are ordered by flat index, everywhere. No gradient.

    Raises:
        TypeError, ValueError: saying what was expected and what came.

    Equivalent to `focaldet.reference.retinanet_postprocess`.
    """
    _check.head_maps(cls_logits, box_deltas, anchors)
    _check.tensor(box_deltas[0], "box_deltas[0]", None, (cls_logits[0].dtype,))
    _check.tensor(image_sizes, "image_sizes", (cls_logits[0].shape[0], 2), (torch.int64,))
    _check.same_device(
        "retinanet_postprocess",
        **_check.named_maps(cls_logits, box_deltas),
        image_sizes=image_sizes,
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
        bool(class_agnostic),
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
    class_agnostic: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    like, batch = cls_logits[0], cls_logits[0].shape[0]
    return (
        like.new_empty((batch, max_detections, 4), dtype=torch.float32),
        like.new_empty((batch, max_detections), dtype=torch.float32),
        like.new_empty((batch, max_detections), dtype=torch.int64),
        like.new_empty((batch,), dtype=torch.int64),
    )
