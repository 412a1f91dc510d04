"""generate_anchors: the anchors of one image, written out."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from .common import Case, Run, Setup, call


def cases(setup: Setup) -> Iterator[Case]:
    height, width = setup.image
    yield Case(
        f"generate_anchors, {height} x {width}, {len(setup.anchors):,} anchors",
        setup,
        {
            "focaldet": call("focaldet.ops:generate_anchors", lambda s: (s.anchors, s.device)),
            "reference": call(
                "focaldet.reference:generate_anchors", lambda s: (s.anchors, s.device)
            ),
            "torchvision": torchvision_provider,
        },
        moved=len(setup.anchors) * 4 * 4,
    )


def torchvision_provider(setup: Setup) -> Run:
    """It learns the sizes from the batch and the feature maps."""
    from torchvision.models.detection.image_list import ImageList
    from torchvision.models.detection.retinanet import _default_anchorgen

    generator = _default_anchorgen()
    images = ImageList(torch.empty(1, 3, *setup.padded, device=setup.device), [setup.image])
    features = [
        torch.empty(1, 1, *size, device=setup.device) for size in setup.anchors.feature_sizes
    ]
    return lambda: generator(images, features)[0]
