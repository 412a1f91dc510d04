"""Pairs of boxes of an image that overlap, without looking at all pairs."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


class Pairs(NamedTuple):
    """Boxes `first` and `second` overlap; `first` is not the smaller one."""

    first: Ints  # [P], positions in the boxes
    second: Ints  # [P]
    iou: Floats  # [P]
    covered: Floats  # [P], the part of `second` that `first` covers


def overlapping(corners: Floats, groups: Ints, least: float = 0.8) -> Pairs:
    """The pairs within a group of which one box covers `least` or more of the other.

    The boxes of a group are swept by their left edges: each is compared with the next, the next
    but one, and so on, in arrays over all boxes at once, as long as that one begins before the box
    ends. So the work is in the pairs that share a column of pixels.

    Args:
        corners: [n, 4], x1, y1, x2, y2, each with an area.
        groups: [n], such as images.
    """
    order = np.lexsort((corners[:, 0], groups))
    x1, y1, x2, y2 = corners[order].T
    group, area = groups[order], (x2 - x1) * (y2 - y1)
    left, step, found = np.arange(len(order)), 0, []
    while True:
        step += 1
        left = left[left + step < len(order)]
        right = left + step
        near = (group[right] == group[left]) & (x1[right] < x2[left])
        left, right = left[near], right[near]
        if not len(left):
            break
        width = np.minimum(x2[left], x2[right]) - x1[right]
        height = np.minimum(y2[left], y2[right]) - np.maximum(y1[left], y1[right])
        shared = width.clip(0) * height.clip(0)
        smaller = np.minimum(area[left], area[right])
        hit = shared >= least * smaller
        found.append((left[hit], right[hit], shared[hit]))
    if not found:
        none = np.zeros(0, np.int64)
        return Pairs(none, none, np.zeros(0), np.zeros(0))
    one, other, shared = (np.concatenate(parts) for parts in zip(*found, strict=True))
    swap = area[other] > area[one]
    first, second = np.where(swap, other, one), np.where(swap, one, other)
    union = area[first] + area[second] - shared
    return Pairs(order[first], order[second], shared / union, shared / area[second])
