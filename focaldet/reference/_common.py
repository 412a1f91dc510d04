"""What the families share: the labels that are no class, and the dtype of the arithmetic."""

from __future__ import annotations

import torch
from torch import Tensor

# Of an anchor: no object; between the thresholds, so that its classification is not asked for.
BACKGROUND, BETWEEN = -1, -2
IGNORED = BETWEEN  # of a row of logits


def wide(tensor: Tensor) -> Tensor:
    """float32 for the half types: all arithmetic is in float32 or float64."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def wide_pair(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Both in the dtype of the arithmetic: float64 if either is."""
    a, b = wide(a), wide(b)
    dtype = torch.promote_types(a.dtype, b.dtype)
    return a.to(dtype), b.to(dtype)
