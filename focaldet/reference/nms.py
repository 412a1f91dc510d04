"""Non-maximum suppression."""

from __future__ import annotations

import torch
from torch import Tensor

from ._common import wide
from .boxes import box_area


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """Rows of the boxes that no better one overlaps by more than the threshold, best first."""
    return batched_nms(boxes, scores, torch.zeros(len(boxes), dtype=torch.int64), iou_threshold)


def batched_nms(boxes: Tensor, scores: Tensor, idxs: Tensor, iou_threshold: float) -> Tensor:
    """nms among the boxes of equal idxs. Ties in score go to the lower row; a box with a NaN
    coordinate or score is never kept and suppresses nothing."""
    dtype = torch.promote_types(wide(boxes).dtype, wide(scores).dtype)
    boxes, scores, idxs = boxes.to(dtype), scores.to(dtype), idxs.to(boxes.device)
    valid = ~(boxes.isnan().any(dim=1) | scores.isnan())
    candidates = valid.nonzero().flatten()
    order = candidates[torch.sort(scores[candidates], descending=True, stable=True).indices]
    threshold = torch.tensor(iou_threshold, dtype=dtype, device=boxes.device)
    keep: list[int] = []
    while len(order):
        best, order = order[0], order[1:]
        keep.append(int(best))
        b, others = boxes[best], boxes[order]
        size = (torch.minimum(b[2:], others[:, 2:]) - torch.maximum(b[:2], others[:, :2])).clamp(
            min=0
        )
        inter = size[:, 0] * size[:, 1]
        union = box_area(b) + box_area(others) - inter
        suppressed = (union > 0) & (inter / union > threshold) & (idxs[order] == idxs[best])
        order = order[~suppressed]
    return torch.tensor(keep, dtype=torch.int64, device=boxes.device)


def nms_padded(
    boxes: Tensor,  # [B, N, 4]
    scores: Tensor,  # [B, N]
    labels: Tensor,  # [B, N]
    iou_threshold: float,
    score_threshold: float = 0.0,
    max_detections: int = 100,
) -> tuple[Tensor, Tensor]:  # int64 [B, max_detections], -1 beyond the count; int64 [B]
    """batched_nms by image among scores above the threshold, the best max_detections of each."""
    idx = torch.full((len(boxes), max_detections), -1, dtype=torch.int64, device=boxes.device)
    count = torch.zeros(len(boxes), dtype=torch.int64, device=boxes.device)
    for image in range(len(boxes)):
        score = wide(scores[image])
        rows = (score > torch.tensor(score_threshold, dtype=score.dtype)).nonzero().flatten()
        keep = batched_nms(
            boxes[image, rows], scores[image, rows], labels[image, rows], iou_threshold
        )
        keep = rows[keep][:max_detections]
        idx[image, : len(keep)] = keep
        count[image] = len(keep)
    return idx, count
