"""The public operators: checked, documented wrappers over torch.ops.focaldet."""

from .anchors import AnchorGrid, Anchors, generate_anchors
from .boxes import box_iou, decode_boxes, encode_boxes
from .focal_loss import quality_focal_loss, sigmoid_focal_loss, varifocal_loss
from .match import count_foreground, match_anchors
from .nms import batched_nms, nms, nms_match, nms_padded, soft_nms
from .postprocess import retinanet_postprocess
from .retinanet_loss import retinanet_loss
from .softmax_focal_loss import softmax_focal_loss

__all__ = [
    "AnchorGrid",
    "Anchors",
    "batched_nms",
    "box_iou",
    "count_foreground",
    "decode_boxes",
    "encode_boxes",
    "generate_anchors",
    "match_anchors",
    "nms",
    "nms_match",
    "nms_padded",
    "quality_focal_loss",
    "retinanet_loss",
    "retinanet_postprocess",
    "sigmoid_focal_loss",
    "soft_nms",
    "softmax_focal_loss",
    "varifocal_loss",
]
