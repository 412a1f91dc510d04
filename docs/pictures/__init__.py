"""The pictures of the documentation, each drawn by the operators that it explains."""

from __future__ import annotations

from . import boxes, detector, losses, suppression
from .style import svg

# One for an operator, with its name.
PICTURES = {
    draw.__name__: draw
    for draw in (
        losses.sigmoid_focal_loss,
        losses.quality_focal_loss,
        losses.varifocal_loss,
        losses.softmax_focal_loss,
        losses.retinanet_loss,
        boxes.box_iou,
        boxes.encode_boxes,
        boxes.decode_boxes,
        detector.generate_anchors,
        detector.match_anchors,
        detector.retinanet_postprocess,
        suppression.nms,
        suppression.batched_nms,
        suppression.nms_padded,
        suppression.nms_match,
        suppression.soft_nms,
    )
}


def draw_all() -> dict[str, bytes]:
    """SVGs by name."""
    return {name: svg(draw) for name, draw in PICTURES.items()}
