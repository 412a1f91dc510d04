"""Argument checks of the public operators: one sentence with what was expected and what came.

Checks of shapes, dtypes, devices and ranges always run. Checks of values read the tensors, so they
run on the CPU, and on CUDA, where they would wait for the device, only with FOCALDET_CHECK=1.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .. import _C_cuda, cuda_reason

if TYPE_CHECKING:
    from .anchors import Anchors

CHECK_CUDA_VALUES = os.environ.get("FOCALDET_CHECK", "") == "1"
FLOATING = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
INTEGER = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


def _described(value: object) -> str:
    if isinstance(value, Tensor):
        return f"{value.dtype} {list(value.shape)} on {value.device}"
    text = repr(value)
    return f"{type(value).__name__} {text if len(text) <= 60 else text[:60] + '...'}"


def tensor(
    value: object,
    name: str,
    shape: Sequence[int | str] | None = None,
    dtypes: Sequence[torch.dtype] = FLOATING,
) -> Tensor:
    """A tensor of one of the dtypes, of these sizes where `shape` has integers, not letters."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{name}: expected a tensor, got {_described(value)}")
    if value.dtype not in dtypes:
        names = ", ".join(str(dtype).removeprefix("torch.") for dtype in dtypes)
        raise TypeError(f"{name}: expected {names}, got {_described(value)}")
    if shape is not None:
        fits = value.dim() == len(shape) and all(
            isinstance(want, str) or got == want
            for want, got in zip(shape, value.shape, strict=True)
        )
        if not fits:
            wanted = ", ".join(map(str, shape))
            raise ValueError(f"{name}: expected shape [{wanted}], got {_described(value)}")
    return value


def same_device(op: str, **tensors: Tensor | None) -> None:
    """All on one device, and one for which the operators were built."""
    present = {name: value for name, value in tensors.items() if value is not None}
    first, *others = present
    device = present[first].device
    for name in others:
        if present[name].device != device:
            raise ValueError(
                f"{op}: expected {first} and {name} on one device, "
                f"got {device} and {present[name].device}"
            )
    if device.type == "cuda" and _C_cuda is None:
        raise ValueError(f"{op}: there are no CUDA kernels here: {cuda_reason}")


def number(
    value: float, name: str, low: float = -math.inf, high: float = math.inf, *, finite: bool = True
) -> float:
    """A number in [low, high]."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name}: expected a number, got {_described(value)}")
    if not low <= value <= high or (finite and abs(value) == math.inf):
        bounds = f"in [{low:g}, {high:g}]" if math.isfinite(high) else f"of at least {low:g}"
        raise ValueError(f"{name}: expected a number {bounds}, got {value!r}")
    return float(value)


def scalar(value: Tensor, name: str) -> Tensor:
    """A tensor of one number."""
    tensor(value, name, None, (*FLOATING, *INTEGER))
    if value.numel() != 1:
        raise ValueError(f"{name}: expected one number, got {_described(value)}")
    return value


def balance(alpha: float | Tensor, classes: int) -> tuple[float, Tensor | None]:
    """alpha and class_alpha of the schemas: a number of at most 1, or a tensor [K]."""
    if not isinstance(alpha, Tensor):
        return number(alpha, "alpha", high=1), None
    if alpha.dim() == 0:
        raise ValueError("alpha: expected a number or a tensor [K], got a 0-dim tensor")
    return 0.0, tensor(alpha, "alpha", (classes,))


def count(value: int, name: str) -> int:
    """An integer of at least 0."""
    if isinstance(value, bool) or not isinstance(value, int | torch.SymInt):
        raise TypeError(f"{name}: expected an integer, got {_described(value)}")
    if value < 0:
        raise ValueError(f"{name}: expected an integer of at least 0, got {value}")
    return value


def sizes(values: Sequence[Sequence[int]], name: str) -> None:
    """(height, width) pairs of integers of at least 0 whose anchors can be counted."""
    for size in values:
        if len(size) != 2:
            raise ValueError(
                f"{name}: expected a (height, width) for each level, got {tuple(size)}"
            )
        height, width = (count(side, name) for side in size)
        if height * width >= 1 << 50:
            raise ValueError(f"{name}: expected sizes that fit into memory, got {tuple(size)}")


def choice(value: str, name: str, choices: Sequence[str]) -> str:
    if value not in choices:
        raise ValueError(f"{name}: expected one of {', '.join(choices)}, got {value!r}")
    return value


def no_gradient(op: str, **tensors: object) -> None:
    """Arguments that the operator does not differentiate must not ask for a gradient."""
    for name, value in tensors.items():
        if torch.is_grad_enabled() and isinstance(value, Tensor) and value.requires_grad:
            raise ValueError(f"{op}: {name} gets no gradient; pass {name}.detach()")


def readable(value: Tensor) -> bool:
    """May the values be looked at here: not while tracing, and not if that waits for a device."""
    if torch.compiler.is_compiling() or type(value) not in (Tensor, torch.nn.Parameter):
        return False
    return value.device.type == "cpu" or (value.device.type == "cuda" and CHECK_CUDA_VALUES)


def labels_in_range(labels: Tensor, name: str, classes: int, low: int) -> None:
    if labels.numel() == 0 or not readable(labels):
        return
    smallest, largest = (int(value) for value in labels.aminmax())
    if smallest < low or largest >= classes:
        culprit = smallest if smallest < low else largest
        raise IndexError(f"{name}: expected labels in [{low}, {classes}), got {culprit}")


def finite_boxes(boxes: Tensor, name: str) -> None:
    if boxes.numel() == 0 or not readable(boxes):
        return
    bad = ~boxes.isfinite().all(dim=-1)
    if bad.any():
        row = int(bad.nonzero()[0, 0])
        raise ValueError(f"{name}: expected finite boxes, got {boxes[row].tolist()} in row {row}")


def splits(gt_splits: Tensor, boxes: int) -> None:
    """int64 [B + 1], ascending from 0 to at most the number of boxes."""
    tensor(gt_splits, "gt_splits", ("B + 1",), (torch.int64,))
    if gt_splits.shape[0] == 0:
        raise ValueError("gt_splits: expected shape [B + 1], got an empty tensor")
    if not readable(gt_splits):
        return
    values = gt_splits.tolist()
    if values[0] != 0 or values[-1] > boxes or sorted(values) != values:
        shown = values if len(values) <= 8 else f"{values[:8]} and more"
        raise ValueError(
            f"gt_splits: expected values ascending from 0 to at most {boxes}, got {shown}"
        )


def used(rows: Tensor, gt_splits: Tensor) -> Tensor:
    """The rows before the padding, where the splits may be looked at."""
    return rows[: int(gt_splits[-1])] if readable(gt_splits) else rows


def anchors(value: object) -> Anchors:
    from .anchors import Anchors

    if not isinstance(value, Anchors):
        raise TypeError(
            f"anchors: expected focaldet.Anchors (AnchorGrid.at), got {_described(value)}"
        )
    return value


def head_maps(cls_logits: Sequence[Tensor], box_deltas: Sequence[Tensor], given: object) -> int:
    """Raw head outputs that fit the anchors; returns the number of classes K."""
    grid = anchors(given)
    a = grid.per_position
    levels = len(grid.feature_sizes)
    if len(cls_logits) != levels or len(box_deltas) != levels:
        raise ValueError(
            f"cls_logits, box_deltas: expected {levels} levels as the anchors have, "
            f"got {len(cls_logits)} and {len(box_deltas)}"
        )
    tensor(cls_logits[0], "cls_logits[0]", ("B", "A * K", "H", "W"))
    batch, channels = cls_logits[0].shape[:2]
    if channels % a != 0 or channels == 0:
        raise ValueError(
            f"cls_logits: expected a multiple of {a} channels, one per cell anchor and class, "
            f"got {channels}"
        )
    for name, maps, expected in (
        ("cls_logits", cls_logits, channels),
        ("box_deltas", box_deltas, 4 * a),
    ):
        for level, (height, width) in enumerate(grid.feature_sizes):
            tensor(maps[level], f"{name}[{level}]", (batch, expected, height, width))
            if maps[level].dtype != maps[0].dtype:
                raise TypeError(
                    f"{name}: expected one dtype, got {maps[0].dtype} and {maps[level].dtype} on "
                    f"level {level}"
                )
    return channels // a


def named_maps(cls_logits: Sequence[Tensor], box_deltas: Sequence[Tensor]) -> dict[str, Tensor]:
    """The maps by the names that messages call them."""
    maps = {"cls_logits": cls_logits, "box_deltas": box_deltas}
    return {f"{name}[{i}]": level for name in maps for i, level in enumerate(maps[name])}
