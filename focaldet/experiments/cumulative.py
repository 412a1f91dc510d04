"""Which anchors carry the classification loss: the numbers of the paper's Figure 4 (section 5.1).

A trained model runs over a data set. The losses of foreground and of background anchors are sorted,
each kind by itself, and summed from the lowest on. The paper samples some 10^5 foreground and 10^7
background anchors; here all of them count, in memory that does not grow with them.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from ..anatomy import anatomy, class_losses
from ..data import Batches, DetectionDataset
from ..errors import UserError
from ..models import RetinaNet, for_inference

GAMMAS = (0.0, 0.5, 1.0, 2.0)
HARDEST = (0.01, 0.1, 0.2)  # fractions of the anchors
POINTS = 201  # of a curve
KINDS = ("foreground", "background")

Numbers = dict[str, Any]


class LossHistogram:
    """Losses by size, for sums over the lowest of them without keeping them.

    A bin is the upper half of a float32: eight bits of exponent, seven of the fraction. Such bits
    rise with the number, so bins are in order, and losses of one bin differ by a factor of at most
    1 + 2^-7. Counts and sums are kept for each, in 0.5 MB. A share is then exact at the edges of
    the bins, and between them, where it is taken as a straight line, too high by at most 2^-9 of
    what the bin holds: of a convex curve, which rises by n l to n l (1 + e) over n losses, the
    chord is at most n l e / 4 away.
    """

    BINS = 1 << 15  # of numbers without a sign

    counts: Tensor  # int64 [BINS]
    sums: Tensor  # float64 [BINS]

    def __init__(self) -> None:
        self.counts = torch.zeros(self.BINS, dtype=torch.int64)
        self.sums = torch.zeros(self.BINS, dtype=torch.float64)

    def add(self, losses: Tensor) -> None:
        """float32 [n], finite, 0 or more."""
        losses = losses.cpu().abs()  # -0.0 has a sign
        bins = losses.view(torch.int32).long() >> 16
        self.counts += torch.bincount(bins, minlength=self.BINS)
        self.sums += torch.bincount(bins, losses.double(), self.BINS)

    def __len__(self) -> int:
        return int(self.counts.sum())

    def share(self, fractions: Sequence[float]) -> list[float]:
        """What part of the sum the lowest of these fractions of the losses have; 0 where there is
        nothing to share."""
        there = self.counts > 0
        counts, sums = (
            np.cumsum(np.append(0.0, part[there].numpy())) for part in (self.counts, self.sums)
        )
        if sums[-1] == 0:
            return [0.0] * len(fractions)
        places = np.asarray(fractions) * counts[-1]
        return [float(value) for value in np.interp(places, counts, sums / sums[-1])]

    def hardest(self, fraction: float) -> float:
        """The part of the sum that this fraction of the losses, the highest, has."""
        return 1 - self.share([1 - fraction])[0] if self.sums.sum() else 0.0


def cumulative_losses(
    model: RetinaNet,
    dataset: DetectionDataset,
    labels: Sequence[int],  # of the model, for each of the data set's
    gammas: Sequence[float] = GAMMAS,
    *,
    limit: int | None = None,
    workers: int = 0,
) -> Numbers:
    """Runs a model, in eval mode, over a data set whose transform is an `eval_transform`, or over
    its first `limit` images; returns what JSON can hold.

    The loss of an anchor is the sum over its classes, with the alpha of the model's own loss, for
    each gamma, whichever the model learned with. Ignored anchors are left out. Raises `UserError`
    where no anchor is foreground, or a loss is not finite.
    """
    histograms = {(g, kind): LossHistogram() for g in gammas for kind in KINDS}
    model, to_label = for_inference(model), torch.tensor(labels)
    device = next(model.parameters()).device
    count = min(len(dataset), limit or len(dataset))
    batches = tqdm(
        islice(Batches(dataset, 1, workers=workers), count),
        total=count,
        unit=" images",
        leave=False,
        disable=None,
    )
    images, alpha = 0, -1.0
    for (image,), (target,) in batches:
        truth = {"boxes": target["boxes"], "labels": to_label[target["labels"]]}
        truth = {key: value.to(device) for key, value in truth.items()}
        found = anatomy(model, image.to(device), truth, resize=model.transform.repeatable)
        masks = {"foreground": found.labels >= 0, "background": found.labels == -1}
        for gamma in gammas:
            losses = class_losses(found, gamma=gamma)
            if not losses.isfinite().all():
                raise UserError(
                    f"image {target['image_id']}: its losses are not finite; are these weights of "
                    "a run that diverged?"
                )
            for kind, mask in masks.items():
                histograms[gamma, kind].add(losses[mask])
        images, alpha = images + 1, found.alpha
    numbers = {kind: len(histograms[gammas[0], kind]) for kind in KINDS}
    for kind, number in numbers.items():
        if not number:
            raise UserError(
                f"none of the anchors of {images} images is {kind}; expected images with boxes"
            )
    return {
        "images": images,
        "anchors": numbers,
        "alpha": alpha,
        "gammas": [
            {"gamma": g} | {kind: _summary(histograms[g, kind]) for kind in KINDS} for g in gammas
        ],
    }


def _summary(histogram: LossHistogram) -> Numbers:
    curve = histogram.share([i / (POINTS - 1) for i in range(POINTS)])
    return {
        "mean_loss": float(histogram.sums.sum()) / len(histogram),
        "share_of_hardest": {f"{f:g}": round(histogram.hardest(f), 6) for f in HARDEST},
        "curve": [round(value, 6) for value in curve],
    }
