"""How to train, and what a resumed run must have in common with the one it goes on with."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch

from .optim import MILESTONES, OPTIMIZERS, SCHEDULES

# What autocast computes in; weights stay float32 throughout.
PRECISIONS: dict[str, torch.dtype | None] = {
    "float32": None,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


@dataclass(frozen=True)
class Recipe:
    """How to train. The defaults are the recipe behind the table in docs/guides/train.md."""

    epochs: int = 12
    batch_size: int = 8  # images of a step, over all processes and micro-batches
    optimizer: str = "adamw"  # one of optim.OPTIMIZERS
    lr: float | None = None  # at its peak; None: the optimizer's usual one
    weight_decay: float | None = None  # None: the optimizer's usual one
    schedule: str = "onecycle"  # one of optim.SCHEDULES
    warmup: int = 100  # steps; onecycle has its own
    milestones: tuple[float, ...] = MILESTONES  # of "step", which divides by 10: parts of the run
    clip_norm: float = 1.0  # largest norm of the gradient; 0: not clipped
    precision: str = "float32"  # one of PRECISIONS; float16 scales the loss (GradScaler)
    ema: float = 0.0  # decay of the averaged weights, e.g. 0.999; 0: none
    seed: int = 0
    sync_norm: bool = False  # BatchNorm over the images of all processes
    compile: bool = False  # torch.compile the loss, from images to scalars
    accumulate: int = 1  # micro-batches of a process in a step
    max_bad_steps: int = 3  # in a row without a finite loss and gradient, before training stops
    save_every: int = 0  # steps between checkpoints within an epoch; 0: after epochs alone
    eval_every: int = 1  # epochs; the last epoch always is
    workers: int = 2  # processes that load images, for training and as many for evaluation
    max_detections: int = 100  # boxes of an image that are scored; COCO's number
    evaluator: str = "pycocotools"  # one of scoring.EVALUATORS
    profile: bool = False  # write a trace of a few steps
    tensorboard: bool = False  # write events beside metrics.jsonl

    def __post_init__(self) -> None:
        counts = {
            "epochs",
            "batch_size",
            "accumulate",
            "max_bad_steps",
            "eval_every",
            "max_detections",
        }
        for name in (*counts, "warmup", "save_every", "workers", "seed"):
            value, least = getattr(self, name), int(name in counts)
            if not isinstance(value, int) or value < least:
                raise ValueError(f"{name}: expected an integer of at least {least}, got {value!r}")
        for name, usual in (("lr", 0.0), ("weight_decay", 0.0), ("clip_norm", None), ("ema", None)):
            value = getattr(self, name)
            if not _is_number(usual if value is None else value):
                raise ValueError(f"{name}: expected a number, 0 or more, got {value!r}")
        if not self.ema < 1:
            raise ValueError(f"ema: expected a number from 0 to 1, below 1, got {self.ema!r}")
        object.__setattr__(self, "milestones", tuple(self.milestones))  # TOML has lists
        if not all(_is_number(part) and 0 < part < 1 for part in self.milestones):
            raise ValueError(f"milestones: expected numbers from 0 to 1, got {self.milestones}")
        for name, choices in (
            ("optimizer", OPTIMIZERS),
            ("schedule", SCHEDULES),
            ("precision", tuple(PRECISIONS)),
        ):
            if getattr(self, name) not in choices:
                raise ValueError(
                    f"{name}: expected one of {', '.join(choices)}, got {getattr(self, name)!r}"
                )

    @classmethod
    def differences(cls, theirs: dict[str, Any], ours: dict[str, Any]) -> Iterator[Difference]:
        """Where two recipes, as dicts, do not give the same run. What an older one lacks has its
        default."""
        for name, default in cls().as_dict().items():
            have = theirs.get(name, default)
            if name not in FREE and have != ours[name]:
                yield name, have, ours[name]

    def as_dict(self) -> dict[str, Any]:
        """As JSON gives it back."""
        return asdict(self) | {"milestones": list(self.milestones)}


# What may change on the way: it changes what is done beside the steps, or how a step is shared out,
# which changes its result by rounding alone; more with BatchNorm, and `Run.resume` says so.
FREE = {
    "accumulate",
    "max_bad_steps",
    "save_every",
    "eval_every",
    "workers",
    "evaluator",
    "profile",
    "tensorboard",
}


Difference = tuple[str, Any, Any]  # of what, in the run to resume, in this command


def same(name: str, theirs: Any, ours: Any) -> Iterator[Difference]:
    """The entries in which two values, or two dicts, differ."""
    if isinstance(theirs, dict) and isinstance(ours, dict):
        for key in theirs | ours:
            yield from same(key, theirs.get(key), ours.get(key))
    elif theirs != ours:
        yield name, theirs, ours


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and 0 <= value < math.inf
