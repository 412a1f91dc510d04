"""Training that takes seconds: a model and scenes of 64 pixels, and what a run has recorded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from focaldet.data import CocoDataset, eval_transform, train_transform
from focaldet.models import RetinaNet
from focaldet.ops import AnchorGrid

SIZE = 64  # pixels
CLOCKS = {"seconds", "images_per_second", "waited_for_data"}  # of a record: differ by run


def tiny_model(dtype: torch.dtype = torch.float32, **changes: Any) -> RetinaNet:
    """The same weights every time."""
    torch.manual_seed(3)
    grid = AnchorGrid.torchvision(sizes=[8, 16, 32, 64, 128])
    options = {"width": 16, "fpn_channels": 16, "head_depth": 1, "anchor_grid": grid}
    options |= {"min_size": SIZE, "max_size": SIZE}
    return RetinaNet(3, "resnet18", **options | changes).to(dtype)


def dataset(scenes: Path, training: bool, **options: Any) -> CocoDataset:
    """Of a folder that `generate_scenes` filled."""
    transform = train_transform(SIZE) if training else eval_transform(SIZE)
    return CocoDataset(scenes / "instances.json", scenes / "images", transform=transform, **options)


def records(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def without_clocks(folder: Path) -> list[dict[str, Any]]:
    """The records, but for times: what runs that did the same have in common."""
    return [
        {key: value for key, value in record.items() if key not in CLOCKS}
        for record in records(folder)
    ]
