"""Images that look alike: the same picture saved anew, scaled or lit otherwise."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

BLOCK = 2048  # rows of the table of correlations that are in memory at once
ALIKE = 0.97  # least correlation of two thumbnails


def alike(thumbnails: npt.NDArray[np.float32]) -> list[tuple[int, int, float]]:
    """The pairs of rows whose correlation is at least ALIKE, and it, the highest first.

    Correlation does not see brightness and contrast. It costs a product of matrices, n x n values
    that are looked at and not kept: for 30,000 images some seconds. Images of one colour, which
    correlate with nothing, are left out.
    """
    centred = thumbnails - thumbnails.mean(1, keepdims=True)
    length = np.linalg.norm(centred, axis=1)
    rows = np.flatnonzero(length > thumbnails.shape[1] ** 0.5)  # a deviation of one grey level
    units = centred[rows] / length[rows, None]
    pairs = []
    for start in range(0, len(rows), BLOCK):
        found = units[start : start + BLOCK] @ units[start:].T
        for i, j in np.argwhere(found >= ALIKE).tolist():
            if i < j:
                pairs.append((int(rows[start + i]), int(rows[start + j]), float(found[i, j])))
    return sorted(pairs, key=lambda pair: -pair[2])
