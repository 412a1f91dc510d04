"""Pictures without a subject, the same in every run."""

from __future__ import annotations

import numpy as np
from PIL import Image


def noise(size: tuple[int, int], spread: float, seed: int = 0) -> Image.Image:
    """Grey in RGB; width and height, and the deviation from 128. (PIL's own takes no seed.)"""
    values = np.random.default_rng(seed).normal(128, spread, size[::-1])
    return Image.fromarray(values.clip(0, 255).astype(np.uint8)).convert("RGB")
