"""Anchors, and the head's maps in the order of the anchors. `anchors` is a `focaldet.Anchors`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


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


def flatten_maps(maps: list[Tensor], per_position: int) -> Tensor:
    """[B, A * C, H, W] by level to [B, sum H W A, C]."""
    flat = []
    for level in maps:
        batch, channels, height, width = level.shape
        split = level.reshape(batch, per_position, channels // per_position, height, width)
        flat.append(split.permute(0, 3, 4, 1, 2).flatten(1, 3))
    return torch.cat(flat, dim=1)
