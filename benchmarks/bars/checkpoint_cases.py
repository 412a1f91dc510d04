"""The ways to save a training run that benchmarks.bars.checkpoint compares, and what each needs.

`python -m benchmarks.bars.checkpoint_cases PROVIDER` prints the bytes by which the process grows at
most beside the state.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import safetensors.torch
import torch

from focaldet.checkpoint import LAST, Description, load_newest, save_generation
from focaldet.files import replacing
from focaldet.models import RetinaNet

from .. import memory

BACKBONES = ("resnet18", "resnet50")
LIMIT, LOAD = "limit", "load"
PIECE = 4 << 20  # bytes


class State(NamedTuple):
    """What a run has to save: as `focaldet train` has it, channels_last, with AdamW's moments."""

    model: RetinaNet
    optimizer: torch.optim.Optimizer

    @classmethod
    def of(cls, backbone: str, quick: bool) -> State:
        width, channels = (8, 8) if quick else (64, 256)
        model = RetinaNet(80, backbone, width=width, fpn_channels=channels)
        model = model.to(memory_format=torch.channels_last)
        optimizer = torch.optim.AdamW(model.parameters(), fused=True)
        for parameter in model.parameters():
            parameter.grad = torch.ones_like(parameter)
        optimizer.step()
        optimizer.zero_grad()
        return cls(model, optimizer)

    @property
    def tree(self) -> dict[str, Any]:
        return {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}


def ours(state: State, folder: Path) -> None:
    description = Description(state.model.config, ["a"] * 80, list(range(80)))
    training = {"optimizer": state.optimizer.state_dict()}
    save_generation(folder, state.model.state_dict(), description, training)


def torch_save(state: State, folder: Path) -> None:
    with replacing(folder / "torch.pt") as temporary:
        torch.save(state.tree, temporary)


def safetensors_save(state: State, folder: Path) -> None:
    """Tensors only, which is most of it."""
    tensors = dict(state.model.state_dict())
    for number, moments in state.optimizer.state_dict()["state"].items():
        tensors |= {f"{number}.{name}": tensor for name, tensor in moments.items()}
    with replacing(folder / "tensors.safetensors") as temporary:
        safetensors.torch.save_file({n: t.contiguous() for n, t in tensors.items()}, temporary)


def load(state: State, folder: Path) -> None:
    load_newest(folder, training=True)


# All but the limit write to a new file, sync it and rename it; ours hashes it, too.
PROVIDERS: dict[str, Callable[[State, Path], None]] = {
    "focaldet": ours, "torch.save": torch_save, "safetensors": safetensors_save, LOAD: load
}  # fmt: skip


def limit(folder: Path) -> Callable[[], None]:
    """The bytes of our checkpoint as they are, synced and renamed: the disk begins as they come."""
    data = memoryview((folder / LAST).read_bytes())

    def run() -> None:
        with replacing(folder / "bytes") as temporary, open(temporary, "wb", buffering=0) as file:
            for start in range(0, len(data), PIECE):
                size = file.write(data[start : start + PIECE])
                os.posix_fadvise(file.fileno(), start, size, os.POSIX_FADV_DONTNEED)

    return run


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        "python -m benchmarks.bars.checkpoint_cases", description=__doc__
    )
    parser.add_argument("provider", choices=PROVIDERS)
    parser.add_argument("--backbone", choices=BACKBONES, default=BACKBONES[0])
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args(argv)
    run = PROVIDERS[args.provider]
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:
        ours(State.of(args.backbone, quick=True), Path(folder))
        run(State.of(args.backbone, quick=True), Path(folder))  # what a first call takes once
        state = State.of(args.backbone, args.quick)
        if args.provider == LOAD:
            ours(state, Path(folder))
        extra, _ = memory.growth(lambda: run(state, Path(folder)))
    print(json.dumps({"extra": extra}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
