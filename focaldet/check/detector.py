"""What of a detector decides which boxes it can learn: the size of images, anchors, limits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch

from ..data import Resize
from ..models.transform import whole_strides
from ..ops import AnchorGrid, Anchors, count_foreground

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Part = npt.NDArray[np.float32]  # half the memory to go through

FOREGROUND = 0.5  # IoU from which an anchor learns a box: `fg_iou` of focaldet.ops.match_anchors


@dataclass(frozen=True)
class Detector:
    resize: Resize
    grid: AnchorGrid
    strides: tuple[int, ...] = (8, 16, 32, 64, 128)  # of the levels' feature maps
    detections: int = 300  # boxes that it gives for an image, at most

    def with_anchors(self, size: int, aspect_ratios: Sequence[float]) -> Detector:
        """With anchors as `--anchor-size` makes them, in these ratios of height to width."""
        sizes = [size * 2**level for level in range(len(self.strides))]
        return replace(self, grid=AnchorGrid.torchvision(sizes, aspect_ratios))

    def anchors(self, height: int, width: int) -> Anchors:
        """Of a resized image of this size, alone in its batch."""
        padded = whole_strides(height, width)
        # Each level halves the one below, rounding up.
        sizes = [(-(-padded[0] // stride), -(-padded[1] // stride)) for stride in self.strides]
        return self.grid.at(sizes, padded)

    def best_iou(self, corners: Floats, sizes: Ints) -> Floats:
        """The greatest IoU of each box with an anchor.

        No anchor is made for it: of one shape of anchor on a level, the one whose centre is nearest
        to the box's overlaps it most. So the work is in boxes times shapes.

        Args:
            corners: [n, 4], x1, y1, x2, y2 in pixels of the resized image, each with an area.
            sizes: [n, 2], (height, width) of that image.
        """
        best = np.zeros(len(corners))
        unique, rows = np.unique(sizes, axis=0, return_inverse=True)
        grids = [self.anchors(height, width) for height, width in unique.tolist()]
        for anchors in set(grids):
            same = np.array([other == anchors for other in grids])
            these = np.flatnonzero(same[rows.reshape(-1)])
            best[these] = _best_iou(corners[these], anchors)
        return best

    def foreground(self, corners: Floats, height: int, width: int) -> tuple[int, int]:
        """Of an image with these boxes: how many anchors learn one, and how many there are."""
        anchors = self.anchors(height, width)
        boxes = torch.from_numpy(corners).float()
        splits = torch.tensor([0, len(boxes)])
        return int(count_foreground(anchors, boxes, splits)), len(anchors)


def _best_iou(corners: Floats, anchors: Anchors) -> Part:
    x1, y1, x2, y2 = np.ascontiguousarray(corners.T, np.float32)
    area = (x2 - x1) * (y2 - y1)
    best = np.zeros(len(corners), np.float32)

    def overlap(low: Part, high: Part, start: float, end: float, stride: int, n: int) -> Part:
        """In one direction, with the nearest of n anchors from `start` to `end`, each a stride on
        from the last."""
        middle = ((low + high) - (start + end)) / 2
        nearest = np.rint(middle / stride - anchors.offset).clip(0, n - 1)
        shift = (nearest + anchors.offset) * stride
        return (np.minimum(high, end + shift) - np.maximum(low, start + shift)).clip(0)

    levels = zip(anchors.cell_anchors, anchors.feature_sizes, anchors.strides, strict=True)
    for cells, (rows, columns), (down, across) in levels:
        for left, top, right, bottom in cells:
            shared = overlap(x1, x2, left, right, across, columns)
            shared *= overlap(y1, y2, top, bottom, down, rows)
            np.maximum(best, shared / (area + (right - left) * (bottom - top) - shared), out=best)
    return best
