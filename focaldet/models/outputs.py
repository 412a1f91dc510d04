"""What a RetinaNet gives: losses and detections, of tensors and as torchvision's does."""

from __future__ import annotations

from typing import NamedTuple, TypedDict

from torch import Tensor


class Losses(NamedTuple):
    classification: Tensor  # []
    bbox_regression: Tensor  # []
    n_foreground: Tensor  # int64: the foreground anchors that the losses are normalised by


class LossDict(TypedDict):
    """What the model gives in training: scalars."""

    classification: Tensor
    bbox_regression: Tensor


class Detection(TypedDict):
    """What the model gives in evaluation, for each image: n boxes by falling score."""

    boxes: Tensor  # float32 [n, 4]: x1, y1, x2, y2 in pixels of the image
    scores: Tensor  # float32 [n]
    labels: Tensor  # int64 [n]


class Detections(NamedTuple):
    """M rows an image, the first counts[b] of them detections by falling score, then padding."""

    boxes: Tensor  # float32 [B, M, 4]: x1, y1, x2, y2 in pixels; padding 0
    scores: Tensor  # float32 [B, M]; padding 0
    labels: Tensor  # int64 [B, M]; padding -1
    counts: Tensor  # int64 [B]
