"""What the pictures show things on: a generated scene, and what a detector might say about it."""

from __future__ import annotations

import json
import tempfile
from functools import cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from focaldet import AnchorGrid, Anchors, ops
from focaldet.data.scenes import generate_scenes

SIZE = 128
NAMES = ("disc", "square", "triangle")
# Two levels, so that no picture is overcrowded: 3 * 3 anchors of 24 and of 48 pixels.
GRID = AnchorGrid.paper(sizes=(20, 40), strides=(8, 16))


@cache
def scene(seed: int = 12) -> tuple[np.ndarray, Tensor, Tensor]:
    """A picture uint8 [SIZE, SIZE, 3]; its boxes [n, 4] and labels [n]."""
    with tempfile.TemporaryDirectory() as folder:
        file = generate_scenes(
            Path(folder, "scene"),
            images=1,
            seed=seed,
            size=SIZE,
            objects=(5, 5),
            object_size=(22, 44),
        )
        content = json.loads(file.read_text(encoding="utf-8"))
        picture = Image.open(file.parent / "images" / "00001.png")
        # In 20 colours it takes half the bytes.
        image = np.asarray(picture.quantize(20, dither=Image.Dither.NONE).convert("RGB"))
    boxes = torch.tensor([a["bbox"] for a in content["annotations"]], dtype=torch.float32)
    boxes[:, 2:] += boxes[:, :2]
    return image, boxes, torch.tensor([a["category_id"] - 1 for a in content["annotations"]])


def anchors() -> Anchors:
    """GRID over the scene."""
    return GRID.at([(SIZE // 8, SIZE // 8), (SIZE // 16, SIZE // 16)], (SIZE, SIZE))


def candidates(each: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Boxes [n, 4] around those of the scene, `each` of them, with scores [n] and labels [n]."""
    _, truth, labels = scene()
    random = torch.Generator().manual_seed(seed)
    size = (truth[:, 2:] - truth[:, :2]).repeat(1, 2)
    noise = torch.randn(each, len(truth), 4, generator=random) * 0.09
    boxes = (truth + noise * size).clamp(0, SIZE).flatten(0, 1)
    overlap = ops.box_iou(boxes, truth).amax(dim=1)
    scores = (overlap * (0.9 + 0.1 * torch.rand(len(boxes), generator=random))).clamp(max=0.99)
    return boxes, scores, labels.repeat(each)


def head_maps() -> tuple[list[Tensor], list[Tensor]]:
    """Maps as a trained head might make them for the scene: classes and offsets, by level."""
    _, truth, labels = scene()
    random = torch.Generator().manual_seed(0)
    grid = anchors()
    table = ops.generate_anchors(grid)
    overlap, nearest = ops.box_iou(table, truth).max(dim=1)
    logits = torch.full((len(table), len(NAMES)), -6.0)
    logits += torch.randn(logits.shape, generator=random)
    logits[torch.arange(len(table)), labels[nearest]] += 10 * overlap
    deltas = ops.encode_boxes(truth[nearest], table)
    deltas += 0.06 * torch.randn(deltas.shape, generator=random)
    return _by_level(logits, grid), _by_level(deltas, grid)


def _by_level(rows: Tensor, grid: Anchors) -> list[Tensor]:
    """Rows in the order of the anchors, [n, C], as maps [1, A * C, H, W]."""
    maps, first = [], 0
    for height, width in grid.feature_sizes:
        count = height * width * grid.per_position
        level = rows[first : first + count].view(height, width, -1)
        maps.append(level.permute(2, 0, 1)[None].contiguous())
        first += count
    return maps
