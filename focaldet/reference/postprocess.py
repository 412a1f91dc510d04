"""From the raw maps of RetinaNet's head to padded detections."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .anchors import flatten_maps, generate_anchors
from .boxes import decode_boxes
from .nms import batched_nms


def retinanet_postprocess(
    cls_logits: list[Tensor],  # [B, A * K, H, W] by level
    box_deltas: list[Tensor],  # [B, A * 4, H, W] by level
    anchors: Any,
    image_sizes: Tensor,  # int64 [B, 2], (height, width) before padding
    score_threshold: float = 0.05,
    topk: int = 1000,
    iou_threshold: float = 0.5,
    max_detections: int = 100,
    class_agnostic: bool = False,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # boxes, scores, labels, counts; padded
    """Per level: scores above the threshold, the best topk, decoded and clipped; then NMS per class
    (or over all classes) over the levels together, and the best max_detections. Ties go to the
    lower flat index."""
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
        groups = torch.zeros_like(k) if class_agnostic else k
        keep = batched_nms(b, s, groups, iou_threshold)[:max_detections]
        counts[image] = len(keep)
        boxes[image, : len(keep)] = b[keep]
        scores[image, : len(keep)] = s[keep]
        labels[image, : len(keep)] = k[keep]
    return boxes, scores, labels, counts
