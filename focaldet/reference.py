"""What every operator computes, in plain torch, written for reading.

The functions here have the signatures of their fused twins in `focaldet.ops` and import torch
alone. They are the specification: where a kernel and its twin disagree, one of them is wrong. They
are also what runs on CUDA for the operators that have no kernel there yet. `anchors` is a
`focaldet.Anchors`, or, for matching, a tensor [n, 4].
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

BACKGROUND, BETWEEN, IGNORED = -1, -2, -2
MAX_LOG_SCALE = math.log(1000 / 16)


def _wide(tensor: Tensor) -> Tensor:
    """float32 for the half types: all arithmetic is in float32 or float64."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def _wide_pair(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Both in the dtype of the arithmetic: float64 if either is."""
    a, b = _wide(a), _wide(b)
    dtype = torch.promote_types(a.dtype, b.dtype)
    return a.to(dtype), b.to(dtype)


# Focal loss ------------------------------------------------------------------------------------


def dense_targets(inputs: Tensor, targets: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Labels [...] to one-hot rows [..., K]; floating targets as they are; smoothed."""
    if not targets.is_floating_point():
        classes = torch.arange(inputs.shape[-1], device=inputs.device)
        targets = targets[..., None] == classes
    targets = targets.to(_wide(inputs).dtype)
    return targets * (1 - label_smoothing) + label_smoothing / 2


def _focal_weight(
    targets: Tensor,  # [..., K], dense
    labels: Tensor,  # [...] or [..., K]: the targets as given
    alpha: float | Tensor,
    class_weight: Tensor | None,
) -> Tensor:
    alpha = torch.as_tensor(alpha, dtype=targets.dtype, device=targets.device)
    balance = alpha * targets + (1 - alpha) * (1 - targets)
    weight = torch.where(alpha < 0, torch.ones_like(balance), balance)
    if class_weight is not None:
        weight = weight * class_weight.to(weight.dtype)
    if not labels.is_floating_point():
        counted = (labels >= BACKGROUND) & (labels < targets.shape[-1])
        weight = weight * counted[..., None]
    return weight


def sigmoid_focal_loss(
    inputs: Tensor,  # [..., K] logits
    targets: Tensor,  # [..., K] in [0, 1], or int64 [...] labels
    alpha: float | Tensor = 0.25,
    gamma: float = 2.0,
    reduction: str = "none",
    *,
    class_weight: Tensor | None = None,
    label_smoothing: float = 0.0,
) -> Tensor:
    """alpha_t (1 - p_t)^gamma CE(p, t): Lin et al. 2017, equation 5."""
    x, t = _wide(inputs), dense_targets(inputs, targets, label_smoothing)
    p, q = torch.sigmoid(x), torch.sigmoid(-x)
    wrong = p * (1 - t) + q * t
    cross_entropy = _mix(t, -F.logsigmoid(x), -F.logsigmoid(-x))
    weight = _focal_weight(t, targets, alpha, class_weight)
    loss = torch.where(weight == 0, 0.0, weight * wrong**gamma * cross_entropy)
    if reduction == "none":
        return loss.to(inputs.dtype)
    if reduction == "sum":
        return loss.sum()
    return loss.sum() / count_targets(inputs, targets)


def _mix(t: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
    """t positive + (1 - t) negative, where 0 times infinity is 0."""
    return torch.where(t > 0, t * positive, 0.0) + torch.where(t < 1, (1 - t) * negative, 0.0)


def count_targets(inputs: Tensor, targets: Tensor) -> Tensor:
    """The number of elements that are not ignored, at least 1: what "mean" divides by."""
    if targets.is_floating_point():
        return torch.tensor(max(1, inputs.numel()), device=inputs.device)
    counted = (targets >= BACKGROUND) & (targets < inputs.shape[-1])
    return (counted.sum() * inputs.shape[-1]).clamp(min=1)


def sigmoid_focal_loss_backward(
    grad: Tensor,  # like inputs, or 0-dim
    inputs: Tensor,
    targets: Tensor,
    alpha: float | Tensor = 0.25,
    gamma: float = 2.0,
    class_weight: Tensor | None = None,
    label_smoothing: float = 0.0,
) -> Tensor:
    """grad * d loss / d inputs. With m the chance of being wrong and c the cross entropy:
    d/dx m^gamma c = m^gamma (gamma m'/m c + p - t), m' = p q (1 - 2 t)."""
    first, _ = _focal_derivatives(inputs, targets, alpha, gamma, class_weight, label_smoothing)
    return (grad * first).to(inputs.dtype)


def sigmoid_focal_loss_second_backward(
    grad: Tensor,
    inputs: Tensor,
    targets: Tensor,
    alpha: float | Tensor = 0.25,
    gamma: float = 2.0,
    class_weight: Tensor | None = None,
    label_smoothing: float = 0.0,
) -> Tensor:
    """grad * d^2 loss / d inputs^2, for gradients of gradients."""
    _, second = _focal_derivatives(inputs, targets, alpha, gamma, class_weight, label_smoothing)
    return (grad * second).to(inputs.dtype)


def _focal_derivatives(
    inputs: Tensor,
    targets: Tensor,
    alpha: float | Tensor,
    gamma: float,
    class_weight: Tensor | None,
    label_smoothing: float,
) -> tuple[Tensor, Tensor]:
    x, t = _wide(inputs), dense_targets(inputs, targets, label_smoothing)
    p, q = torch.sigmoid(x), torch.sigmoid(-x)
    wrong = p * (1 - t) + q * t
    # Where the cross entropy is infinite its factors are 0, and the products' limits are 0.
    largest = torch.finfo(x.dtype).max
    cross_entropy = _mix(t, -F.logsigmoid(x), -F.logsigmoid(-x)).clamp(max=largest)
    # m'/m; for hard targets without a quotient that could be 0 / 0.
    ratio = torch.where(t == 0, q, torch.where(t == 1, -p, p * q * (1 - 2 * t) / wrong))
    scale = _focal_weight(t, targets, alpha, class_weight)
    scale = torch.where(scale == 0, 0.0, scale * wrong**gamma)
    error = p * (1 - t) - q * t  # p - t, without cancellation
    first = gamma * ratio * cross_entropy + error
    bend = gamma * ratio * ((gamma - 1) * ratio + (q - p)) * cross_entropy
    second = bend + 2 * gamma * ratio * error + p * q
    zero = torch.zeros((), dtype=x.dtype, device=x.device)
    return torch.where(scale == 0, zero, scale * first), torch.where(
        scale == 0, zero, scale * second
    )


# Boxes ----------------------------------------------------------------------------------------


def box_area(boxes: Tensor) -> Tensor:
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


def box_iou(a: Tensor, b: Tensor) -> Tensor:  # [N, 4], [M, 4] -> [N, M]
    """Intersection over union of all pairs."""
    a, b = _wide_pair(a, b)
    top_left = torch.maximum(a[:, None, :2], b[:, :2])
    bottom_right = torch.minimum(a[:, None, 2:], b[:, 2:])
    size = (bottom_right - top_left).clamp(min=0)
    inter = size[..., 0] * size[..., 1]
    return inter / (box_area(a)[:, None] + box_area(b) - inter)


def _center_size(boxes: Tensor) -> tuple[Tensor, Tensor]:
    size = boxes[..., 2:] - boxes[..., :2]
    return boxes[..., :2] + 0.5 * size, size


def encode_boxes(gt_boxes: Tensor, anchors: Tensor) -> Tensor:  # [..., 4], [..., 4]
    """(dx, dy, dw, dh) of boxes seen from anchors: Girshick et al. 2014, appendix C."""
    gt_boxes, anchors = _wide_pair(gt_boxes, anchors)
    center, size = _center_size(anchors)
    gt_center, gt_size = _center_size(gt_boxes)
    return torch.cat([(gt_center - center) / size, torch.log(gt_size / size)], dim=-1)


def decode_boxes(deltas: Tensor, anchors: Tensor) -> Tensor:  # [..., 4], [..., 4]
    """Undoes encode_boxes; dw and dh are clamped above at log(1000 / 16), not below."""
    deltas, anchors = _wide_pair(deltas, anchors)
    center, size = _center_size(anchors)
    center = center + deltas[..., :2] * size
    half = 0.5 * torch.exp(deltas[..., 2:].clamp(max=MAX_LOG_SCALE)) * size
    return torch.cat([center - half, center + half], dim=-1)


# Anchors and matching -------------------------------------------------------------------------


def generate_anchors(anchors: Any, device: torch.device | str = "cpu") -> Tensor:
    """[sum H W A, 4]: levels in order, then y, x and the cell anchor."""
    rows = []
    for cells, (height, width), (stride_y, stride_x) in zip(
        anchors.cell_anchors, anchors.feature_sizes, anchors.strides, strict=True
    ):
        y = (torch.arange(height, dtype=torch.float32, device=device) + anchors.offset) * stride_y
        x = (torch.arange(width, dtype=torch.float32, device=device) + anchors.offset) * stride_x
        y, x = torch.meshgrid(y, x, indexing="ij")
        shifts = torch.stack([x, y, x, y], dim=-1).reshape(-1, 1, 4)
        cell = torch.tensor(cells, dtype=torch.float32, device=device)
        rows.append((cell + shifts).reshape(-1, 4))
    return torch.cat(rows) if rows else torch.empty(0, 4, device=device)


def _anchor_tensor(anchors: Any, device: torch.device) -> Tensor:
    return anchors.float() if isinstance(anchors, Tensor) else generate_anchors(anchors, device)


def match_anchors(
    anchors: Any,
    gt_boxes: Tensor,  # [T, 4]
    gt_splits: Tensor,  # int64 [B + 1]
    fg_iou: float = 0.5,
    bg_iou: float = 0.4,
    low_quality: str = "torchvision",
) -> Tensor:  # int32 [B, n_anchors]
    """The row of each anchor's box within its image, -1 background, -2 between the thresholds.

    An anchor takes its best box (ties: the lowest row). IoU >= fg_iou is foreground, < bg_iou is
    background. A box's best anchors (IoU equal to the best of that box, and above 0) are foreground
    below the threshold too: under "torchvision" each keeps its own best box (Matcher with
    allow_low_quality_matches), under "mmdet" it goes to that box, the last such box winning
    (MaxIoUAssigner with gt_max_assign_all), under "none" there is no such rule (the paper).
    """
    table = _anchor_tensor(anchors, gt_boxes.device)
    rows = []
    for start, stop in zip(gt_splits[:-1].tolist(), gt_splits[1:].tolist(), strict=True):
        if start == stop or len(table) == 0:
            rows.append(torch.full((len(table),), BACKGROUND, device=table.device))
            continue
        iou = box_iou(gt_boxes[start:stop].float(), table).nan_to_num(nan=-1.0)  # [t, n]
        row = torch.arange(stop - start, device=table.device)[:, None]
        best = iou.amax(dim=0)
        match = torch.where(iou == best, row, stop - start).amin(dim=0)
        result = torch.where(best < fg_iou, BETWEEN, match)
        result = torch.where(best < bg_iou, BACKGROUND, result)
        top = iou.amax(dim=1, keepdim=True)
        claims = (iou == top) & (top > 0)
        if low_quality == "torchvision":
            result = torch.where(claims.any(dim=0), match, result)
        elif low_quality == "mmdet":
            result = torch.where(
                claims.any(dim=0), torch.where(claims, row, -1).amax(dim=0), result
            )
        rows.append(result)
    return torch.stack(rows).int() if rows else table.new_empty((0, len(table)), dtype=torch.int32)


def count_foreground(anchors: Any, gt_boxes: Tensor, gt_splits: Tensor, **rules: Any) -> Tensor:
    """int64 [B]: the number of foreground anchors of each image."""
    return (match_anchors(anchors, gt_boxes, gt_splits, **rules) >= 0).sum(dim=1)


# Training ---------------------------------------------------------------------------------------


def retinanet_loss(
    cls_logits: list[Tensor],  # [B, A * K, H, W] by level
    box_deltas: list[Tensor],  # [B, A * 4, H, W] by level
    anchors: Any,
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
) -> tuple[Tensor, Tensor, Tensor]:  # classification, box_regression, n_foreground
    """Focal loss over all anchors and box loss over the foreground, both divided by the number of
    foreground anchors: of the batch ("batch"), of each image, then averaged ("image"), or given."""
    per_position = len(anchors.cell_anchors[0])
    logits = flatten_maps(cls_logits, per_position)
    deltas = flatten_maps(box_deltas, per_position)
    table = generate_anchors(anchors, deltas.device)
    matches = match_anchors(table, gt_boxes, gt_splits, fg_iou, bg_iou, low_quality).long()
    labels = torch.where(matches == BETWEEN, IGNORED, BACKGROUND)
    foreground = matches >= 0
    row = (matches + gt_splits[:-1, None])[foreground]
    labels[foreground] = gt_labels[row]
    classification = sigmoid_focal_loss(logits, labels, alpha, gamma)
    target = encode_boxes(gt_boxes[row], table.expand(len(matches), -1, 4)[foreground])
    regression = torch.zeros_like(deltas, dtype=_wide(deltas).dtype)
    regression[foreground] = box_distance(deltas[foreground], target, box_loss, beta)
    per_image = foreground.sum(dim=1)
    if isinstance(normalizer, str) and normalizer == "image":
        scale = per_image.clamp(min=1) * max(1, len(per_image))
    elif isinstance(normalizer, str):
        scale = per_image.sum().clamp(min=1)
    else:
        scale = normalizer
    classification = (_wide(classification).sum(dim=(1, 2)) / scale).sum()
    return classification, (regression.sum(dim=(1, 2)) / scale).sum(), per_image.sum()


def flatten_maps(maps: list[Tensor], per_position: int) -> Tensor:
    """[B, A * C, H, W] by level to [B, sum H W A, C]."""
    flat = []
    for level in maps:
        batch, channels, height, width = level.shape
        split = level.reshape(batch, per_position, channels // per_position, height, width)
        flat.append(split.permute(0, 3, 4, 1, 2).flatten(1, 3))
    return torch.cat(flat, dim=1)


def box_distance(deltas: Tensor, target: Tensor, box_loss: str, beta: float) -> Tensor:
    """Elementwise |d| ("l1"), or quadratic below beta ("smooth_l1"; Girshick 2015, beta = 1)."""
    if box_loss == "l1" or beta == 0:
        return (_wide(deltas) - target).abs()
    return F.smooth_l1_loss(_wide(deltas), target, reduction="none", beta=beta)


# Suppression and post-processing --------------------------------------------------------------


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """Rows of the boxes that no better one overlaps by more than the threshold, best first."""
    return batched_nms(boxes, scores, torch.zeros(len(boxes), dtype=torch.int64), iou_threshold)


def batched_nms(boxes: Tensor, scores: Tensor, idxs: Tensor, iou_threshold: float) -> Tensor:
    """nms among the boxes of equal idxs. Ties in score go to the lower row; a box with a NaN
    coordinate or score is never kept and suppresses nothing."""
    dtype = torch.promote_types(_wide(boxes).dtype, _wide(scores).dtype)
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
        wide = _wide(scores[image])
        rows = (wide > torch.tensor(score_threshold, dtype=wide.dtype)).nonzero().flatten()
        keep = batched_nms(
            boxes[image, rows], scores[image, rows], labels[image, rows], iou_threshold
        )
        keep = rows[keep][:max_detections]
        idx[image, : len(keep)] = keep
        count[image] = len(keep)
    return idx, count


def retinanet_postprocess(
    cls_logits: list[Tensor],  # [B, A * K, H, W] by level
    box_deltas: list[Tensor],  # [B, A * 4, H, W] by level
    anchors: Any,
    image_sizes: Tensor,  # int64 [B, 2], (height, width) before padding
    score_threshold: float = 0.05,
    topk: int = 1000,
    iou_threshold: float = 0.5,
    max_detections: int = 100,
    *,
    suppress: Callable[[Tensor, Tensor, Tensor, float], Tensor] = batched_nms,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # boxes, scores, labels, counts; padded
    """Per level: scores above the threshold, the best topk, decoded and clipped; then NMS per class
    over the levels together and the best max_detections. Ties go to the lower flat index."""
    per_position = len(anchors.cell_anchors[0])
    tables = [generate_anchors(level, image_sizes.device) for level in anchors.levels()]
    batch, device = len(image_sizes), image_sizes.device
    boxes = torch.zeros(batch, max_detections, 4, device=device)
    scores = torch.zeros(batch, max_detections, device=device)
    labels = torch.full((batch, max_detections), -1, dtype=torch.int64, device=device)
    counts = torch.zeros(batch, dtype=torch.int64, device=device)
    for image in range(batch):
        found_boxes, found_scores, found_labels = [], [], []
        height, width = image_sizes[image].tolist()
        limit = torch.tensor([width, height, width, height], device=device)
        for logits, deltas, table in zip(cls_logits, box_deltas, tables, strict=True):
            level = flatten_maps([logits[image : image + 1]], per_position)[0].float()
            score = torch.sigmoid(level).flatten()
            passing = (score > torch.tensor(score_threshold)).nonzero().flatten()
            order = torch.sort(score[passing], descending=True, stable=True).indices[:topk]
            chosen = passing[order]
            anchor = chosen // level.shape[1]
            delta = flatten_maps([deltas[image : image + 1]], per_position)[0][anchor].float()
            decoded = decode_boxes(delta, table[anchor])
            found_boxes.append(torch.minimum(decoded.clamp(min=0), limit))
            found_scores.append(score[chosen])
            found_labels.append(chosen % level.shape[1])
        b, s, k = torch.cat(found_boxes), torch.cat(found_scores), torch.cat(found_labels)
        keep = suppress(b, s, k, iou_threshold)[:max_detections]
        counts[image] = len(keep)
        boxes[image, : len(keep)] = b[keep]
        scores[image, : len(keep)] = s[keep]
        labels[image, : len(keep)] = k[keep]
    return boxes, scores, labels, counts
