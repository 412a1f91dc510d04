"""What every operator computes, in plain torch, written for reading.

The functions here have the signatures of their fused twins in `focaldet.ops` and import torch
alone. They are the specification: where a kernel and its twin disagree, one of them is wrong. One
module per family; all names that others use are here. `anchors` is a `focaldet.Anchors`, or, for
matching, a tensor [n, 4].
"""

from ._common import BACKGROUND, BETWEEN, IGNORED
from .anchors import flatten_maps, generate_anchors
from .box_loss import box_losses
from .boxes import MAX_LOG_SCALE, box_area, box_iou, decode_boxes, encode_boxes
from .focal_loss import (
    count_targets,
    dense_targets,
    quality_focal_loss,
    sigmoid_focal_loss,
    sigmoid_focal_loss_backward,
    sigmoid_focal_loss_second_backward,
    varifocal_loss,
)
from .match import count_foreground, match_anchors
from .nms import batched_nms, nms, nms_match, nms_padded, soft_nms
from .postprocess import retinanet_postprocess
from .softmax_focal_loss import (
    count_rows,
    softmax_focal_loss,
    softmax_focal_loss_backward,
    softmax_focal_loss_second_backward,
)
from .training import retinanet_loss

__all__ = [
    "BACKGROUND",
    "BETWEEN",
    "IGNORED",
    "MAX_LOG_SCALE",
    "batched_nms",
    "box_area",
    "box_iou",
    "box_losses",
    "count_foreground",
    "count_rows",
    "count_targets",
    "decode_boxes",
    "dense_targets",
    "encode_boxes",
    "flatten_maps",
    "generate_anchors",
    "match_anchors",
    "nms",
    "nms_match",
    "nms_padded",
    "quality_focal_loss",
    "retinanet_loss",
    "retinanet_postprocess",
    "sigmoid_focal_loss",
    "sigmoid_focal_loss_backward",
    "sigmoid_focal_loss_second_backward",
    "soft_nms",
    "softmax_focal_loss",
    "softmax_focal_loss_backward",
    "softmax_focal_loss_second_backward",
    "varifocal_loss",
]
