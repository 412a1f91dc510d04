"""Images that look alike: the same picture saved anew, scaled or lit otherwise."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

BLOCK = 2048  # rows of the table of correlations that are in memory at once
ALIKE = 0.97  # least correlation of two thumbnails


class Alike(NamedTuple):
    first: int  # rows, `first` the earlier one
    second: int
    correlation: float


def alike(thumbnails: npt.NDArray[np.float32], groups: Sequence[Hashable]) -> list[Alike]:
    """Of each row the earlier one of its own group that it is most like, and the earlier one of the
    other groups, where their correlation is at least ALIKE. Those of two groups, which are splits,
    come first, then the highest correlations.

    Correlation does not see brightness and contrast. It costs a product of matrices, n x n / 2
    values that are looked at and not kept: for 30,000 images some seconds. Images of one colour,
    which correlate with nothing, are left out. Of a film of n images n - 1 pairs are left.
    """
    centred = thumbnails - thumbnails.mean(1, keepdims=True)
    length = np.linalg.norm(centred, axis=1)
    rows = np.flatnonzero(length > thumbnails.shape[1] ** 0.5)  # a deviation of one grey level
    units = centred[rows] / length[rows, None]
    numbers = {group: number for number, group in enumerate(dict.fromkeys(groups))}
    group = np.array([numbers[each] for each in groups], np.int64)[rows]
    pairs = []
    for start in range(0, len(rows), BLOCK):
        end = min(start + BLOCK, len(rows))
        found = units[start:end] @ units[:end].T
        found[:, start:][np.triu_indices(end - start)] = -1.0  # itself, and later ones
        same = group[start:end, None] == group[:end]
        for among in (same, ~same):
            masked = np.where(among, found, -1.0)
            best, highest = masked.argmax(1), masked.max(1)
            for row in np.flatnonzero(highest >= ALIKE).tolist():
                first, second = int(rows[best[row]]), int(rows[start + row])
                pairs.append(Alike(first, second, float(highest[row])))
    return sorted(pairs, key=lambda p: (groups[p.first] == groups[p.second], -p.correlation))
