"""What the tests of the losses' kernels share: dtypes with their tolerances, and small anchors."""

from __future__ import annotations

import torch

from focaldet.ops import AnchorGrid

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
# Of a gradient that was rounded once; float32 has the bounds of DESIGN, below 20 ulp.
RTOL = {torch.float16: 2e-3, torch.bfloat16: 1.6e-2, torch.float32: 4e-6, torch.float64: 1e-12}
ATOL = {torch.float16: 1.2e-7, torch.bfloat16: 1e-12, torch.float32: 1e-12, torch.float64: 1e-15}
SIZES = [(6, 8), (3, 5), (0, 4), (2, 2), (1, 1)]  # planes in packs, odd ones, none, single numbers
GRID = AnchorGrid.torchvision(sizes=(12, 20, 30, 40, 60), aspect_ratios=(1.0,))
ANCHORS = GRID.at(SIZES, (48, 64))
