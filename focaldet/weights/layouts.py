"""What a known layout is: how it names a RetinaNet's tensors, and what its numbers mean."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

from ..errors import UserError
from .read import Source

Rule = tuple[str, str | Callable[[re.Match[str]], str] | None]

# Regular expressions: a tensor of a norm, and one of a ResNet by torchvision's names.
NORM = "(?:weight|bias|running_mean|running_var|num_batches_tracked)"
BODY = rf"(?:conv1|bn1|layer[1-4]\.\d+\.(?:conv[123]|bn[123]|downsample\.[01]))\.{NORM}"


class Preprocessing(NamedTuple):
    """What a network expects of its images, and where its body has the stride."""

    mean: tuple[float, ...]  # R, G, B, of values up to 255
    std: tuple[float, ...]
    bgr: bool  # channels in the order B, G, R
    stride_in: str  # of bottlenecks: "1x1" or "3x3"

    def settings(self) -> dict[str, Any]:
        """For a `RetinaNet` on RGB images up to 1, whose first convolution was turned to RGB."""
        if not all(math.isfinite(v) for v in self.mean) or not all(v > 0 for v in self.std):
            raise UserError(
                f"images: expected finite means and positive standard deviations, got {self.mean} "
                f"and {self.std}; --style takes the usual ones"
            )
        # What a float32 holds, so that the usual ones are themselves: 0.485 and not 0.485000012.
        mean, std = ([float(f"{v / 255:.7g}") for v in part] for part in (self.mean, self.std))
        return {"image_mean": mean, "image_std": std, "stride_in": self.stride_in}


# The two kinds of ResNets that detectors start from, by mmdetection's names for them: those of
# PyTorch, and those that their authors published for Caffe ("MSRA"), which take BGR.
STYLES = {
    "pytorch": Preprocessing((123.675, 116.28, 103.53), (58.395, 57.12, 57.375), False, "3x3"),
    "caffe": Preprocessing((123.675, 116.28, 103.53), (1.0, 1.0, 1.0), True, "1x1"),
}


@dataclass(frozen=True)
class Layout:
    """How a package writes its RetinaNets.

    rules: regular expressions for whole names, and what they become in this package (torchvision's
    names); None for what is known and not needed. preprocessing: of a source, for the style asked
    for or None. settings: further arguments of `RetinaNet`.
    """

    name: str
    rules: tuple[Rule, ...]
    preprocessing: Callable[[Source, str | None], Preprocessing]
    settings: Callable[[Source], dict[str, Any]]

    def rename(self, name: str) -> str | None:
        """The name here; "" for what is not needed; None for a name that is not this layout's."""
        for pattern, replacement in self.rules:
            if match := re.fullmatch(pattern, name):
                if replacement is None:
                    return ""
                return replacement(match) if callable(replacement) else match.expand(replacement)
        return None

    def share(self, names: Iterable[str]) -> float:
        """The part of the names that are this layout's."""
        known = [self.rename(name) is not None for name in names]
        return sum(known) / max(1, len(known))


def by_style(default: str) -> Callable[[Source, str | None], Preprocessing]:
    """Preprocessing for layouts whose state dict does not tell it."""
    return lambda source, style: STYLES[style or default]


def nearest(layouts: dict[str, Layout], names: Iterable[str]) -> tuple[Layout, float]:
    """The layout that knows most of the names, and the part of them that it knows."""
    names = list(names)
    best = max(layouts.values(), key=lambda layout: layout.share(names))
    return best, best.share(names)


def choose(layouts: dict[str, Layout], wish: str, source: Source) -> Layout:
    """The layout asked for, or with "auto" the one that knows at least half of the names."""
    if wish != "auto":
        return layouts[wish]
    best, share = nearest(layouts, source.weights)
    if share < 0.5:
        raise UserError(
            f"{source.path}: not a RetinaNet of {', '.join(layouts)}: {best.name} comes nearest "
            f"with {share:.0%} of the {len(source.weights)} names (the first are "
            f"{', '.join(list(source.weights)[:3])}); --layout names the package if it is one"
        )
    return best
