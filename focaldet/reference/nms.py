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
    return nms_match(boxes, scores, iou_threshold, idxs)[0]


def nms_match(
    boxes: Tensor,  # [N, 4]
    scores: Tensor,  # [N]
    iou_threshold: float,
    idxs: Tensor | None = None,  # [N]
) -> tuple[Tensor, Tensor]:  # int64 [k]; int64 [N]
    """batched_nms, and for every row the kept row that suppressed it: the best one that does. A
    kept row has itself, a row with a NaN has -1."""
    boxes, scores, groups, valid = _prepared(boxes, scores, idxs)
    candidates = valid.nonzero().flatten()
    order = candidates[torch.sort(scores[candidates], descending=True, stable=True).indices]
    threshold = torch.tensor(iou_threshold, dtype=boxes.dtype, device=boxes.device)
    keep: list[int] = []
    match = torch.full_like(groups, -1)
    while len(order):
        best, order = order[0], order[1:]
        keep.append(int(best))
        overlap = _overlaps(boxes[best], boxes[order])
        suppressed = (overlap > threshold) & (groups[order] == groups[best])
        match[best] = match[order[suppressed]] = best
        order = order[~suppressed]
    return torch.tensor(keep, dtype=torch.int64, device=boxes.device), match


def soft_nms(
    boxes: Tensor,  # [N, 4]
    scores: Tensor,  # [N]
    iou_threshold: float = 0.3,
    sigma: float = 0.5,
    min_score: float = 1e-3,
    method: str = "linear",
    idxs: Tensor | None = None,  # [N]
) -> tuple[Tensor, Tensor]:  # int64 [k]; [k]
    """Bodla et al. 2017: again and again the best box is kept, and the scores of the others of its
    group are multiplied by what its IoU with them says. A score below min_score, which is at least
    0, is out."""
    boxes, scores, groups, valid = _prepared(boxes, scores, idxs)
    threshold, spread, least = (
        torch.tensor(number, dtype=boxes.dtype, device=boxes.device)
        for number in (iou_threshold, sigma, min_score)
    )
    scores = scores + 0.0  # which makes 0.0 of -0.0
    alive = valid & (scores >= least)
    keep: list[int] = []
    while alive.any():
        best = int(torch.where(alive, scores, -1).argmax())  # the first of equal ones
        keep.append(best)
        alive[best] = False
        rows = (alive & (groups == groups[best])).nonzero().flatten()
        overlap = _overlaps(boxes[best], boxes[rows])
        if method == "linear":
            weight = torch.where(overlap > threshold, 1 - overlap, 1)
        else:
            weight = torch.where(overlap > 0, torch.exp(-(overlap * overlap) / spread), 1)
        scores[rows] *= weight
        alive &= scores >= least
    kept = torch.tensor(keep, dtype=torch.int64, device=boxes.device)
    return kept, scores[kept]


def _prepared(
    boxes: Tensor, scores: Tensor, idxs: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Boxes and scores in the dtype of the arithmetic, groups, and which rows have no NaN."""
    dtype = torch.promote_types(wide(boxes).dtype, wide(scores).dtype)
    boxes, scores = boxes.to(dtype), scores.to(dtype)
    one = torch.zeros(len(boxes), dtype=torch.int64)
    groups = (one if idxs is None else idxs.to(torch.int64)).to(boxes.device)
    return boxes, scores, groups, ~(boxes.isnan().any(dim=1) | scores.isnan())


def _overlaps(box: Tensor, others: Tensor) -> Tensor:
    """IoU of one box with many; 0 where the union is not positive, or NaN."""
    size = torch.minimum(box[2:], others[:, 2:]) - torch.maximum(box[:2], others[:, :2])
    size = size.clamp(min=0)
    inter = size[:, 0] * size[:, 1]
    union = box_area(box) + box_area(others) - inter
    return torch.where(union > 0, inter / union, 0)


def nms_padded(
    boxes: Tensor,  # [B, N, 4]
    scores: Tensor,  # [B, N]
    labels: Tensor | None,  # [B, N]
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
        groups = torch.zeros_like(rows) if labels is None else labels[image, rows]
        keep = batched_nms(boxes[image, rows], scores[image, rows], groups, iou_threshold)
        keep = rows[keep][:max_detections]
        idx[image, : len(keep)] = keep
        count[image] = len(keep)
    return idx, count
