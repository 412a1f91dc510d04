"""Anchor grids: the conventions of four detectors, and anchors computed from their index."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .. import torch_ops as _ops
from . import _check

CellAnchor = tuple[float, float, float, float]  # x1, y1, x2, y2 in pixels around the origin
Schema = tuple[list[float], list[int], list[int], float]  # see Anchors.schema_arguments


@dataclass(frozen=True)
class Anchors:
    """The anchors of one batch: a grid laid over feature maps of known sizes.

    Never a tensor: operators compute an anchor from its flat index, levels in order, then y, x and
    the cell anchor. `generate_anchors` writes them out.

    cell_anchors: by level, A boxes in pixels. feature_sizes and strides: (height, width) by level;
    strides in pixels. offset: in strides, 0 puts the first anchor's centre at the origin, 0.5 at
    the middle of the first cell.
    """

    cell_anchors: tuple[tuple[CellAnchor, ...], ...]
    feature_sizes: tuple[tuple[int, int], ...]
    strides: tuple[tuple[int, int], ...]
    offset: float
    # Made once: the operators ask for it on every call.
    _schema: Schema = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        cells = [value for level in self.cell_anchors for cell in level for value in cell]
        sizes = [value for size in self.feature_sizes for value in size]
        strides = [value for stride in self.strides for value in stride]
        object.__setattr__(self, "_schema", (cells, sizes, strides, self.offset))

    def __len__(self) -> int:
        return sum(height * width for height, width in self.feature_sizes) * self.per_position

    @property
    def per_position(self) -> int:
        """A, the same on every level."""
        return len(self.cell_anchors[0])

    def levels(self) -> list[Anchors]:
        """Each level on its own."""
        return [
            Anchors((cells,), (size,), (stride,), self.offset)
            for cells, size, stride in zip(
                self.cell_anchors, self.feature_sizes, self.strides, strict=True
            )
        ]

    @staticmethod
    def from_schema(
        cell_anchors: Sequence[float],
        feature_sizes: Sequence[int],
        strides: Sequence[int],
        offset: float,
    ) -> Anchors:
        """Undoes `schema_arguments`."""
        sizes = tuple(zip(feature_sizes[::2], feature_sizes[1::2], strict=True))
        boxes = list(zip(*[iter(cell_anchors)] * 4, strict=True))
        each = len(boxes) // max(1, len(sizes))
        cells = tuple(tuple(boxes[i * each : (i + 1) * each]) for i in range(len(sizes)))
        steps = tuple(zip(strides[::2], strides[1::2], strict=True))
        return Anchors(cells, sizes, steps, offset)

    def schema_arguments(self) -> Schema:
        """cell_anchors, feature_sizes, strides and offset as csrc/ops.cpp takes them."""
        return self._schema


@dataclass(frozen=True)
class AnchorGrid:
    """Anchors before the image size is known.

    cell_anchors: by level, A boxes [x1, y1, x2, y2] in pixels around the origin, the same A
    everywhere. strides: pixels by level, or "image": the padded image size floor-divided by the
    feature size, as torchvision computes it. offset: in strides, see `Anchors`.
    """

    cell_anchors: tuple[tuple[CellAnchor, ...], ...]
    strides: tuple[int, ...] | str
    offset: float = 0.0

    def __post_init__(self) -> None:
        counts = {len(level) for level in self.cell_anchors}
        if len(counts) != 1 or 0 in counts:
            raise ValueError(
                "cell_anchors: expected the same number of anchors (at least 1) on every level, "
                f"got {[len(level) for level in self.cell_anchors]}"
            )
        if any(len(cell) != 4 for level in self.cell_anchors for cell in level):
            raise ValueError("cell_anchors: expected four numbers [x1, y1, x2, y2] for each")
        if isinstance(self.strides, str):
            if self.strides != "image":
                raise ValueError(f'strides: expected integers or "image", got {self.strides!r}')
        elif len(self.strides) != len(self.cell_anchors):
            raise ValueError(
                f"strides: expected one for each of {len(self.cell_anchors)} levels, "
                f"got {len(self.strides)}"
            )
        elif not all(isinstance(stride, int) for stride in self.strides):
            raise TypeError(f"strides: expected integers, got {list(self.strides)}")
        elif any(stride < 1 for stride in self.strides):
            raise ValueError(f"strides: expected at least 1 pixel, got {list(self.strides)}")

    @property
    def per_position(self) -> int:
        """A, the number of anchors at each position."""
        return len(self.cell_anchors[0])

    def at(self, feature_sizes: Sequence[tuple[int, int]], padded_size: tuple[int, int]) -> Anchors:
        """The grid over feature maps of these (height, width), for a padded image of that one."""
        if len(feature_sizes) != len(self.cell_anchors):
            raise ValueError(
                f"feature_sizes: expected {len(self.cell_anchors)} levels, got {len(feature_sizes)}"
            )
        _check.sizes(feature_sizes, "feature_sizes")
        sizes = tuple((height, width) for height, width in feature_sizes)
        if isinstance(self.strides, str):
            image_height, image_width = padded_size
            strides = tuple(
                (image_height // max(1, height), image_width // max(1, width))
                for height, width in sizes
            )
        else:
            strides = tuple((stride, stride) for stride in self.strides)
        return Anchors(self.cell_anchors, sizes, strides, self.offset)

    @staticmethod
    def paper(
        sizes: Sequence[float] = (32, 64, 128, 256, 512),
        aspect_ratios: Sequence[float] = (0.5, 1.0, 2.0),
        scales: Sequence[float] = (1.0, 2 ** (1 / 3), 2 ** (2 / 3)),
        strides: Sequence[int] = (8, 16, 32, 64, 128),
    ) -> AnchorGrid:
        """Lin et al. 2017, section 4: areas 32^2 to 512^2 on P3 to P7, three octave scales, three
        ratios (height / width), centred on the middle of each cell."""
        return AnchorGrid.detectron2(sizes, aspect_ratios, scales, strides, offset=0.5)

    @staticmethod
    def torchvision(
        sizes: Sequence[float] = (32, 64, 128, 256, 512),
        aspect_ratios: Sequence[float] = (0.5, 1.0, 2.0),
    ) -> AnchorGrid:
        """torchvision's RetinaNet: octave sizes floored to integers, cell anchors rounded in
        float32, strides from the padded image."""
        levels = []
        for size in sizes:
            octaves = [int(size), int(size * 2 ** (1 / 3)), int(size * 2 ** (2 / 3))]
            ratio = torch.tensor(list(aspect_ratios), dtype=torch.float32)
            h_ratio = ratio.sqrt()
            scale = torch.tensor(octaves, dtype=torch.float32)
            width = ((1 / h_ratio)[:, None] * scale).flatten()
            height = (h_ratio[:, None] * scale).flatten()
            cells = (torch.stack([-width, -height, width, height], dim=1) / 2).round()
            levels.append(_cells(cells))
        return AnchorGrid(tuple(levels), "image", 0.0)

    @staticmethod
    def detectron2(
        sizes: Sequence[float] = (32, 64, 128, 256, 512),
        aspect_ratios: Sequence[float] = (0.5, 1.0, 2.0),
        scales: Sequence[float] = (1.0, 2 ** (1 / 3), 2 ** (2 / 3)),
        strides: Sequence[int] = (8, 16, 32, 64, 128),
        offset: float = 0.0,
    ) -> AnchorGrid:
        """detectron2's DefaultAnchorGenerator: exact sizes, anchors of a cell by size, then ratio
        (height / width)."""
        levels = []
        for size in sizes:
            cells = []
            for scale in scales:
                for ratio in aspect_ratios:
                    width = math.sqrt((size * scale) ** 2 / ratio)
                    height = ratio * width
                    cells.append([-width / 2, -height / 2, width / 2, height / 2])
            levels.append(_cells(torch.tensor(cells, dtype=torch.float32)))
        return AnchorGrid(tuple(levels), tuple(strides), offset)

    @staticmethod
    def mmdetection(
        octave_base_scale: float = 4,
        scales_per_octave: int = 3,
        ratios: Sequence[float] = (0.5, 1.0, 2.0),
        strides: Sequence[int] = (8, 16, 32, 64, 128),
    ) -> AnchorGrid:
        """mmdetection's RetinaNet: base size = stride, sizes by octave, anchors of a cell by ratio
        (height / width), then scale; computed in float32."""
        levels = []
        octaves = [
            octave_base_scale * 2 ** (i / scales_per_octave) for i in range(scales_per_octave)
        ]
        scale = torch.tensor(octaves, dtype=torch.float32)
        h_ratio = torch.tensor(list(ratios), dtype=torch.float32).sqrt()
        for stride in strides:
            width = (stride * (1 / h_ratio)[:, None] * scale).flatten()
            height = (stride * h_ratio[:, None] * scale).flatten()
            cells = torch.stack([-0.5 * width, -0.5 * height, 0.5 * width, 0.5 * height], dim=1)
            levels.append(_cells(cells))
        return AnchorGrid(tuple(levels), tuple(strides), 0.0)


def _cells(rows: Tensor) -> tuple[CellAnchor, ...]:
    return tuple(tuple(row) for row in rows.tolist())


def generate_anchors(anchors: Anchors, device: torch.device | str = "cpu") -> Tensor:
    """The anchors as a tensor.

    Returns float32 `[sum H*W*A, 4]`, [x1, y1, x2, y2] in pixels: levels in order, then y, x and the
    cell anchor. An anchor is its cell anchor plus `((x + offset) * stride, (y + offset) * stride)`.
    Raises TypeError if `anchors` is not an `Anchors`. On CUDA at most 8 levels and 192 cell anchors
    over all of them, which are parameters of the kernel; more are a RuntimeError.

    Equivalent to:

    ```python
    shift = (torch.stack([x, y, x, y], dim=-1) + anchors.offset) * stride  # by level
    (cell_anchors + shift[..., None, :]).reshape(-1, 4)
    ```
    """
    _check.anchors(anchors)
    device_of = torch.empty(0, device=device)
    return _ops.generate_anchors(device_of, *anchors.schema_arguments())


@torch.library.register_fake("focaldet::generate_anchors")
def _(
    device_of: Tensor,
    cell_anchors: Sequence[float],
    feature_sizes: Sequence[int],
    strides: Sequence[int],
    offset: float,
) -> Tensor:
    return device_of.new_empty((anchor_count(cell_anchors, feature_sizes), 4), dtype=torch.float32)


def anchor_count(cell_anchors: Sequence[float], feature_sizes: Sequence[int]) -> int:
    """The number of anchors of a grid as csrc/ops.cpp takes it."""
    levels = len(feature_sizes) // 2
    if levels == 0:
        return 0
    per_position = len(cell_anchors) // (4 * levels)
    return per_position * sum(
        h * w for h, w in zip(feature_sizes[::2], feature_sizes[1::2], strict=True)
    )
