"""What runs on CUDA for the operators that have no kernel there: their reference twins."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .. import reference
from .anchors import Anchors


def _retinanet_postprocess(
    cls_logits: list[Tensor],
    box_deltas: list[Tensor],
    cell_anchors: list[float],
    strides: list[int],
    offset: float,
    *rest: Any,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    sizes = [size for level in cls_logits for size in level.shape[2:]]
    anchors = Anchors.from_schema(cell_anchors, sizes, strides, offset)
    suppress = torch.ops.focaldet.batched_nms  # the same boxes as the twin's loop
    return reference.retinanet_postprocess(
        cls_logits, box_deltas, anchors, *rest, suppress=suppress
    )


ON_CUDA: dict[str, Callable[..., Any]] = {"retinanet_postprocess": _retinanet_postprocess}
for _name, _function in ON_CUDA.items():
    torch.library.impl(f"focaldet::{_name}", "CUDA")(_function)
