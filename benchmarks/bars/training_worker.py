"""One process of a run that benchmarks.bars.training times: scenes, folder of the run, pixels."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import torch

from focaldet.data import CocoDataset, eval_transform, train_transform
from focaldet.distributed import join
from focaldet.models import RetinaNet
from focaldet.ops import AnchorGrid
from focaldet.train import Recipe, loop, train


def main(scenes: Path, out: Path, size: int) -> None:
    torch.manual_seed(0)
    small: dict[str, Any] = {"width": 16, "fpn_channels": 16, "head_depth": 1} if size < 320 else {}
    model = RetinaNet(
        3,
        "resnet18",
        anchor_grid=AnchorGrid.torchvision(sizes=[16 * 2**i for i in range(5)]),
        min_size=size,
        max_size=size,
        **small,
    )
    saving = timed_saving()
    with join("cpu") as ranks:
        train_set, val_set = (
            CocoDataset(
                scenes / name / "instances.json", scenes / name / "images", transform=transform
            )
            for name, transform in (("train", train_transform(size)), ("val", eval_transform(size)))
        )
        train(model, train_set, val_set, out, Recipe(epochs=1), ranks=ranks)
        if ranks.main:
            (out / "saving.json").write_text(json.dumps(sum(saving)))


def timed_saving() -> list[float]:
    """Seconds of each checkpoint from now on."""
    seconds: list[float] = []
    for name in ("save_checkpoint", "save_generation"):
        real = getattr(loop, name)

        def save(*args: Any, real: Any = real, **more: Any) -> None:
            start = time.perf_counter()
            real(*args, **more)
            seconds.append(time.perf_counter() - start)

        setattr(loop, name, save)
    return seconds


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
