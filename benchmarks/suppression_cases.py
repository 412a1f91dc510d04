"""`python -m benchmarks.suppression_cases`: times what turns a head's maps into detections, on the
CPU, for the bars of `python -m benchmarks.suppression`."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch

from . import cases as command
from . import postprocess
from .common import Case, Setup

CLASSES = 91


def main(argv: Sequence[str] | None = None) -> int:
    return command.main("suppression_cases", __doc__, cases, argv)


def cases(setup: Setup) -> Iterator[tuple[str, Case]]:
    """By the names that suppression.py's targets have for them."""
    # Of 18.3 million logits with a standard deviation of 1, about 700 and 1.5 million exceed -2.94.
    for name, mean in (("few", -6.9), ("many", -4.34)):
        yield f"postprocess, {name}", post_processing(setup, name, mean)


# Post-processing --------------------------------------------------------------------------------


def post_processing(setup: Setup, name: str, mean: float) -> Case:
    case = postprocess.case(setup, 1, CLASSES, mean)
    every = torch.cat([level.flatten() for level in case.inputs.cls_logits])
    return replace(
        case,
        name=f"{case.name}, {name} candidates",
        providers={name: case.providers[name] for name in ("focaldet", "torchvision")},
        moved=None,
        beside={"read": every.amax},
    )


if __name__ == "__main__":
    sys.exit(main())
