"""Images that look alike: the same picture saved anew, scaled or lit otherwise."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

BLOCK = 2048  # rows of the table of correlations that are in memory at once
ALIKE = 0.97  # least correlation of two thumbnails


def alike(thumbnails: npt.NDArray[np.float32]) -> list[tuple[int, int, float]]:
    """Each row, second, that has a correlation of at least ALIKE with an earlier one, first: the
    one that it is most like. The highest correlations come first.

    Correlation does not see brightness and contrast. It costs a product of matrices, n x n / 2
    values that are looked at and not kept: for 30,000 images some seconds. Images of one colour,
    which correlate with nothing, are left out. Of a film of n images there are n - 1 pairs.
    """
    centred = thumbnails - thumbnails.mean(1, keepdims=True)
    length = np.linalg.norm(centred, axis=1)
    rows = np.flatnonzero(length > thumbnails.shape[1] ** 0.5)  # a deviation of one grey level
    units = centred[rows] / length[rows, None]
    pairs = []
    for start in range(0, len(rows), BLOCK):
        end = min(start + BLOCK, len(rows))
        found = units[start:end] @ units[:end].T
        found[np.triu_indices(end - start, start, end)] = -1.0  # itself, and later ones
        best = found.argmax(1)
        for i in np.flatnonzero(found[np.arange(end - start), best] >= ALIKE).tolist():
            j = int(best[i])
            pairs.append((int(rows[j]), int(rows[start + i]), float(found[i, j])))
    return sorted(pairs, key=lambda pair: -pair[2])
