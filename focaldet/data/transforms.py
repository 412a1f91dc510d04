"""Transforms of an image and its boxes together.

A transform is called as ``transform(image, boxes, generator)`` with a Pillow RGB image, its boxes,
a float32 [n, 4] tensor of [x1, y1, x2, y2] in that image's pixels, and the `torch.Generator` that
every random choice is drawn from; it returns the new (image, boxes). Nothing else is random, so an
augmented item is a function of the generator's seed, whichever worker computes it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

Transform = Callable[[Any, Tensor, torch.Generator], tuple[Any, Tensor]]


def seeded_generator(seed: int, *key: int) -> torch.Generator:
    """A generator for one purpose of a run, e.g. (seed, epoch, index), independent of all others.

    `SeedSequence` mixes the key; its result is fixed by NumPy's compatibility policy (NEP 19).
    """
    state = np.random.SeedSequence(seed, spawn_key=key).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state[0]))


def described(transform: Transform) -> str:
    """What a transform does, as text that is the same in every process."""
    if isinstance(transform, Compose):
        return ", ".join(map(described, transform.transforms))
    if isinstance(transform, RandomResize):
        return f"RandomResize({', '.join(map(described, transform.choices))})"
    settings = getattr(transform, "__dict__", {}).items()
    plain = [
        (key, value) for key, value in settings if isinstance(value, int | float | str | tuple)
    ]
    # What is not limited is not named, as in the descriptions of earlier versions.
    arguments = ", ".join(f"{key}={value!r}" for key, value in plain if value != math.inf)
    name = getattr(transform, "__qualname__", type(transform).__qualname__)
    return f"{name}({arguments})"


class Compose:
    """Apply transforms one after the other."""

    def __init__(self, transforms: Sequence[Transform]) -> None:
        self.transforms: tuple[Transform, ...] = tuple(transforms)

    def __call__(self, image: Any, boxes: Tensor, generator: torch.Generator) -> tuple[Any, Tensor]:
        for transform in self.transforms:
            image, boxes = transform(image, boxes, generator)
        return image, boxes


class Resize:
    """Scale by min(min_size / shorter side, max_size / longer side), keeping the aspect ratio.

    The rule of torchvision's and detectron2's detectors, except that sides are rounded, not
    floored: so an image that was resized once is left alone by the same rule a second time. With a
    `max_scale` no image is enlarged by more than that.
    """

    def __init__(self, min_size: int, max_size: int, max_scale: float | None = None) -> None:
        if not 0 < min_size <= max_size:
            raise ValueError(f"expected 0 < min_size <= max_size, got {min_size} and {max_size}")
        if max_scale is not None and not max_scale > 0:
            raise ValueError(f"max_scale: expected a number above 0, got {max_scale}")
        self.min_size: int = min_size
        self.max_size: int = max_size
        self.max_scale: float = math.inf if max_scale is None else max_scale

    def __call__(
        self, image: Image.Image, boxes: Tensor, generator: torch.Generator
    ) -> tuple[Image.Image, Tensor]:
        resized = self.picture(image)
        return resized, self.boxes(boxes, image.size, resized.size)

    def picture(self, image: Image.Image) -> Image.Image:
        """The image alone."""
        size = self.size(*image.size)
        # Pillow's filter widens with the reduction: no aliasing.
        return image if size == image.size else image.resize(size, Image.Resampling.BILINEAR)

    def size(self, width: int, height: int) -> tuple[int, int]:
        """(width, height) of what becomes of an image of this size."""
        shorter, longer = min(width, height), max(width, height)
        scale = min(self.min_size / shorter, self.max_size / longer, self.max_scale)
        return max(1, round(width * scale)), max(1, round(height * scale))

    def boxes(self, boxes: Tensor, before: tuple[int, int], after: tuple[int, int]) -> Tensor:
        """The boxes of an image of (width, height) `before`, now `after`."""
        if after == before:
            return boxes
        return boxes * boxes.new_tensor([after[0] / before[0], after[1] / before[1]]).repeat(2)


class RandomResize:
    """One of several `Resize`, drawn for each image: multi-scale training."""

    def __init__(self, choices: Sequence[Resize]) -> None:
        if not choices:
            raise ValueError("expected at least one size to draw from, got none")
        self.choices: tuple[Resize, ...] = tuple(choices)

    def __call__(
        self, image: Image.Image, boxes: Tensor, generator: torch.Generator
    ) -> tuple[Image.Image, Tensor]:
        choice = int(torch.randint(len(self.choices), (), generator=generator))
        return self.choices[choice](image, boxes, generator)


class RandomCrop:
    """A window of `size` x `size` pixels of the image, or of all it has in a direction.

    Boxes are cut at its edges. Those of which less than `least` is in it, by area, are left without
    area, and so without an object: `DetectionDataset` drops them.
    """

    def __init__(self, size: int, least: float = 0.3) -> None:
        if size < 1:
            raise ValueError(f"size: expected at least 1 pixel, got {size}")
        self.size: int = size
        self.least: float = _probability(least)

    def __call__(
        self, image: Image.Image, boxes: Tensor, generator: torch.Generator
    ) -> tuple[Image.Image, Tensor]:
        width, height = (min(self.size, side) for side in image.size)
        left, top = (
            int(torch.randint(side - kept + 1, (), generator=generator))
            for side, kept in zip(image.size, (width, height), strict=True)
        )
        window = boxes.new_tensor([left, top, left + width, top + height])
        cut = torch.cat(
            [boxes[:, :2].maximum(window[:2]), boxes[:, 2:].minimum(window[2:])], 1
        ) - window[:2].repeat(2)
        kept = _areas(cut) >= self.least * _areas(boxes)
        cut = torch.where(kept[:, None], cut, 0.0)
        return image.crop((left, top, left + width, top + height)), cut


def _areas(boxes: Tensor) -> Tensor:
    """Of [x1, y1, x2, y2]; 0 for what is inverted."""
    return (boxes[:, 2:] - boxes[:, :2]).clamp(min=0).prod(1)


def settles_size(transform: Transform) -> bool:
    """Whether images are to be left at the size that a transform gives them: it draws the size, or
    limits how far it enlarges, by what only the original size can tell."""
    if isinstance(transform, Compose):
        return any(map(settles_size, transform.transforms))
    if isinstance(transform, Resize):
        return transform.max_scale < math.inf
    return isinstance(transform, RandomResize | RandomCrop)


def leading_resize(transform: Transform) -> tuple[Resize | None, Transform]:
    """The `Resize` that a transform begins with, which is the same every time, and the rest."""
    steps = transform.transforms if isinstance(transform, Compose) else ()
    if steps and type(steps[0]) is Resize:
        return steps[0], Compose(steps[1:])
    return None, transform


class HorizontalFlip:
    """Mirror left and right with probability `p`."""

    def __init__(self, p: float = 0.5) -> None:
        self.p: float = _probability(p)

    def __call__(
        self, image: Image.Image, boxes: Tensor, generator: torch.Generator
    ) -> tuple[Image.Image, Tensor]:
        if not _happens(self.p, generator):
            return image, boxes
        x1, y1, x2, y2 = boxes.unbind(1)
        boxes = torch.stack([image.width - x2, y1, image.width - x1, y2], 1)
        return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT), boxes


class VerticalFlip:
    """Mirror top and bottom with probability `p`."""

    def __init__(self, p: float = 0.5) -> None:
        self.p: float = _probability(p)

    def __call__(
        self, image: Image.Image, boxes: Tensor, generator: torch.Generator
    ) -> tuple[Image.Image, Tensor]:
        if not _happens(self.p, generator):
            return image, boxes
        x1, y1, x2, y2 = boxes.unbind(1)
        boxes = torch.stack([x1, image.height - y2, x2, image.height - y1], 1)
        return image.transpose(Image.Transpose.FLIP_TOP_BOTTOM), boxes


class ToTensor:
    """RGB Pillow image to a contiguous float32 [3, H, W] tensor in [0, 1]."""

    def __call__(
        self, image: Image.Image, boxes: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        pixels = np.asarray(image).transpose(2, 0, 1)
        scaled = np.empty(pixels.shape, np.float32)
        return torch.from_numpy(np.divide(pixels, np.float32(255), out=scaled)), boxes


def train_transform(
    size: int, *, horizontal_flip: float = 0.5, vertical_flip: float = 0.0
) -> Compose:
    """Longest side to `size` pixels, random flips, tensor."""
    return Compose(
        [
            Resize(size, size),
            HorizontalFlip(horizontal_flip),
            VerticalFlip(vertical_flip),
            ToTensor(),
        ]
    )


def eval_transform(
    size: int, shortest: int | None = None, max_scale: float | None = None
) -> Compose:
    """Longest side to `size` pixels, or less where the shortest would be more than `shortest`, or
    the image enlarged by more than `max_scale`; tensor: nothing random."""
    return Compose([Resize(min(size, shortest or size), size, max_scale), ToTensor()])


def _probability(p: float) -> float:
    if not 0 <= p <= 1:
        raise ValueError(f"expected a probability in [0, 1], got {p}")
    return p


def _happens(p: float, generator: torch.Generator) -> bool:
    return torch.rand((), generator=generator).item() < p
