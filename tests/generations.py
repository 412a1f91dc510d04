"""Generations of a checkpoint whose every bit is known, in a folder that faults.py breaks."""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from random import Random
from typing import Any

import torch
from torch import Tensor

from focaldet.checkpoint import LAST, PREVIOUS, Description, load_newest, save_generation
from focaldet.files import sweep

Allowed = dict[int, str]  # number of a generation that may be the newest -> what that means


def state(number: int) -> tuple[dict[str, Tensor], Description, dict[str, Any]]:
    """Generation `number`: the same tensors by name and shape as all others, with other values."""
    generator = torch.Generator().manual_seed(number)

    def tensor(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    weights = {
        **{f"conv{n}": tensor(16, 8, 3, 3).to(memory_format=torch.channels_last) for n in range(4)},
        "head": tensor(128, 160),  # what the system is asked to begin with
        "norm": tensor(64).to(torch.bfloat16),
        "batches": torch.tensor(number),
        "mask": tensor(37) > 0,
    }
    moments = [{"step": torch.tensor(float(number)), "exp_avg": tensor(512)} for _ in range(4)]
    description = Description({"width": 16}, ["a", "b"], [1, number], number, {"AP": number / 7})
    return weights, description, {"step": number, "optimizer": moments}


class Folder:
    """A run's folder, whose LAST is generation `number` and whose PREVIOUS the one before."""

    def __init__(self, path: Path, random: Random) -> None:
        path.mkdir()
        self.path, self.random = path, random
        self.number = 0
        self.save()
        self.number += 1
        self.seconds = min(self.timed() for _ in range(5))

    def timed(self) -> float:
        """Seconds of saving in a process of its own."""
        start = time.perf_counter()
        os.waitpid(self.saving(), 0)
        self.number += 1
        return time.perf_counter() - start

    def save(self) -> None:
        save_generation(self.path, *state(self.number + 1))

    def saving(self, around: AbstractContextManager[Any] | None = None) -> int:
        """A process that saves, within a context, and ends."""
        process = os.fork()
        if process == 0:
            try:
                with around or nullcontext():
                    self.save()
                os._exit(0)
            finally:  # whatever happens, it does not go on as its parent
                os._exit(1)
        return process

    def renew(self) -> None:
        """Makes both whole again."""
        for _ in range(2):
            self.save()
            self.number += 1

    def damage(self, change: Callable[[bytearray], None]) -> None:
        """Alters the bytes of LAST in place."""
        data = bytearray((self.path / LAST).read_bytes())
        change(data)
        (self.path / LAST).write_bytes(data)

    def check(self, allowed: Allowed) -> str:
        """What came of a fault, of what may; AssertionError for anything else."""
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            weights, description, training, path = load_newest(self.path, training=True)
        assert training is not None
        number = training["step"]
        assert number in allowed, f"took generation {number}, expected one of {allowed}"
        assert (len(caught) == 1) == (path.name == PREVIOUS), f"{path} with {len(caught)} warnings"
        expected = state(number)
        assert same((weights, training), (expected[0], expected[2])), (
            f"{path} differs from {number}"
        )
        assert description == expected[1]
        sweep(self.path)
        assert {p.name for p in self.path.iterdir()} <= {LAST, PREVIOUS}
        self.number = max(self.number, number)
        return allowed[number]


def same(left: Any, right: Any) -> bool:
    """Equal trees, and of tensors all bits."""
    if isinstance(left, Tensor):
        bits = [t.contiguous().reshape(-1).view(torch.uint8) for t in (left, right)]
        return left.dtype == right.dtype and left.shape == right.shape and torch.equal(*bits)
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(same(left[key], right[key]) for key in left)
    if isinstance(left, list | tuple):
        return len(left) == len(right) and all(map(same, left, right))
    return bool(left == right)
