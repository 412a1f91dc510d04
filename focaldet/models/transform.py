"""From a list of images and targets to the tensors that the network and the operators take.

Sizes follow torchvision's GeneralizedRCNNTransform to the pixel, so that weights trained with
either give the same boxes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple, TypedDict

import torch
import torch.nn.functional as F
from torch import Tensor, nn

STRIDE = 32  # batches are padded to a multiple of C5's stride


class Images(NamedTuple):
    """Images as the network takes them."""

    batch: Tensor  # [B, 3, H, W]: normalised, resized, zero beyond each image
    sizes: Tensor  # int64 [B, 2]: (height, width) before padding
    scales: Tensor  # [B, 4]: what takes a box from the given image to the batch


class Targets(NamedTuple):
    """The boxes of a batch in one tensor, as the operators take them."""

    boxes: Tensor  # [T, 4], in the batch's pixels
    labels: Tensor  # int64 [T]
    splits: Tensor  # int64 [B + 1]: image i has rows splits[i] to splits[i + 1]


class GroundTruth(TypedDict):
    """A target: what is to be found on an image. It may hold more."""

    boxes: Tensor  # floating [n, 4]: x1, y1, x2, y2 in pixels of the image
    labels: Tensor  # int64 [n]


class Transform(nn.Module):
    """Normalises, resizes, pads and batches images; packs and scales their boxes.

    An image is resized, bilinearly, so that its short side has `min_size` pixels, or its long side
    `max_size` if that is less, but never enlarged by more than `max_scale`. Images are cast to the
    dtype of the module (`model.half()`).
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        min_size: int,
        max_size: int,
        mean: Sequence[float],
        std: Sequence[float],
        max_scale: float | None = None,
    ) -> None:
        super().__init__()
        self.min_size = min_size
        self.max_size = max_size
        self.max_scale: float = math.inf if max_scale is None else max_scale
        # Buffers, to move with the model; not persistent, as they are settings and not weights.
        self.register_buffer(
            "mean", torch.tensor(mean, dtype=torch.float32)[:, None, None], persistent=False
        )
        self.register_buffer(
            "std", torch.tensor(std, dtype=torch.float32)[:, None, None], persistent=False
        )

    def extra_repr(self) -> str:
        return f"min_size={self.min_size}, max_size={self.max_size}"

    @property
    def repeatable(self) -> bool:
        """Whether images that were resized by these limits are left alone by them; not where
        `max_scale` is one, for it asks for their original size."""
        return self.max_scale == math.inf

    def output_size(self, height: int, width: int) -> tuple[int, int]:
        scale = min(
            self.min_size / min(height, width),
            self.max_size / max(height, width),
            self.max_scale,
        )
        return max(1, int(height * scale)), max(1, int(width * scale))

    def padded_size(self, height: int, width: int) -> tuple[int, int]:
        """What the batch of this image alone measures."""
        return whole_strides(*self.output_size(height, width))

    def images(
        self, images: Sequence[Tensor], least: tuple[int, int] = (0, 0), resize: bool = True
    ) -> Images:
        """`least`: height and width that the batch has at least, such as of one that these images
        are a part of. `resize=False` leaves images at their sizes, as training does whose data set
        draws them. Raises ValueError unless every image is a float tensor [3, H, W]."""
        if len(images) == 0:
            raise ValueError("images: expected at least one tensor [3, H, W], got none")
        for i, image in enumerate(images):
            _check_image(i, image)
        given = [tuple(image.shape[-2:]) for image in images]
        sizes = [self.output_size(h, w) for h, w in given] if resize else given
        padded = [whole_strides(h, w) for h, w in sizes]
        height, width = map(max, zip(least, *padded, strict=True))
        batch = self.mean.new_zeros(len(images), 3, height, width)
        for row, image, size in zip(batch, images, sizes, strict=True):
            image = (image.to(self.mean.dtype) - self.mean) / self.std
            if size != tuple(image.shape[-2:]):
                image = F.interpolate(image[None], size, mode="bilinear", align_corners=False)[0]
            row[:, : size[0], : size[1]] = image

        new, old = torch.tensor(sizes), torch.tensor(given)
        scales = (new / old).flip(1).repeat(1, 2)  # (x, y, x, y)
        return Images(batch, new.to(batch.device), scales.to(batch.device))

    def targets(
        self, targets: Sequence[GroundTruth | dict[str, Tensor]], scales: Tensor, num_classes: int
    ) -> Targets:
        """Raises ValueError, with image and row, for targets that cannot be trained on.

        Values are checked on the CPU only, for a look at a GPU's memory would wait for all of its
        work; targets may stay on the CPU beside a model on a GPU. Unchecked bad rows are ignored by
        the operators.
        """
        if len(targets) != len(scales):
            raise ValueError(f"targets: expected one per image, {len(scales)}, got {len(targets)}")
        for i, target in enumerate(targets):
            _check_target(i, target, num_classes)
        counts = torch.tensor([len(t["boxes"]) for t in targets])
        splits = F.pad(counts.cumsum(0), (1, 0)).to(scales.device)
        boxes = torch.cat([t["boxes"].to(scales) for t in targets])
        labels = torch.cat([t["labels"].to(scales.device) for t in targets])
        row_scales = scales.repeat_interleave(
            counts.to(scales.device), dim=0, output_size=len(boxes)
        )
        return Targets(boxes * row_scales, labels, splits)


def whole_strides(height: int, width: int) -> tuple[int, int]:
    """What a batch of images of this size measures."""
    return -(-height // STRIDE) * STRIDE, -(-width // STRIDE) * STRIDE


def _check_image(i: int, image: Tensor) -> None:
    form = "a floating tensor [3, H, W] with values in [0, 1]"
    if not isinstance(image, Tensor):
        raise ValueError(f"images[{i}]: expected {form}, got {type(image).__name__}")
    if image.dim() != 3 or image.shape[0] != 3 or 0 in image.shape or not image.is_floating_point():
        raise ValueError(f"images[{i}]: expected {form}, got {image.dtype} {list(image.shape)}")


def _check_target(i: int, target: object, num_classes: int) -> None:
    entries = target if isinstance(target, dict) else {}
    boxes, labels = entries.get("boxes"), entries.get("labels")
    if not isinstance(boxes, Tensor) or not isinstance(labels, Tensor):
        raise ValueError(f"targets[{i}]: expected a dict with tensors 'boxes' and 'labels'")
    if boxes.dim() != 2 or boxes.shape[1] != 4 or not boxes.is_floating_point():
        raise ValueError(
            f"targets[{i}]['boxes']: expected a floating tensor [n, 4], "
            f"got {boxes.dtype} {list(boxes.shape)}"
        )
    if labels.shape != boxes.shape[:1] or labels.dtype != torch.int64:
        raise ValueError(
            f"targets[{i}]['labels']: expected an int64 tensor [{len(boxes)}], "
            f"got {labels.dtype} {list(labels.shape)}"
        )
    if boxes.device.type == "cpu":
        good = (boxes[:, 2:] > boxes[:, :2]).all(1) & boxes.isfinite().all(1)
        if not good.all():
            row = int(good.int().argmin())
            raise ValueError(
                f"targets[{i}]['boxes'] row {row}: expected finite [x1, y1, x2, y2] with x1 < x2 "
                f"and y1 < y2, got {boxes[row].tolist()}"
            )
    if labels.device.type == "cpu":
        good = (labels >= 0) & (labels < num_classes)
        if not good.all():
            row = int(good.int().argmin())
            raise ValueError(
                f"targets[{i}]['labels'] row {row}: expected a class in [0, {num_classes}), "
                f"got {int(labels[row])}"
            )
