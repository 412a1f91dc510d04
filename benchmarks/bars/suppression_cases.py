"""`python -m benchmarks.bars.suppression_cases`: times what turns a head's maps into
detections, and suppression on its own, on the CPU, for the bars of suppression.py."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial

from ..case import Case
from ..inputs import COCO_800, Setup
from ..ops import nms, postprocess
from . import command

CLASSES = 91


def main(argv: Sequence[str] | None = None) -> int:
    return command.main("suppression_cases", __doc__, cases, argv)


def cases(setup: Setup) -> Iterator[tuple[str, Case]]:
    """By the names that suppression.py's targets have for them."""
    for name in SUPPRESSION:
        yield name, suppression(setup, name)
    # Of 18.3 million logits with a standard deviation of 1, about 700 and 1.5 million exceed -2.94.
    for name, mean in (("few", -6.9), ("many", -4.34)):
        yield f"postprocess, {name}", post_processing(setup, name, mean)


# Suppression ------------------------------------------------------------------------------------

MILLION = 1_000_000
CHAIN = "nms, a chain of 20,000"
# By name: the operator, the boxes, and how many of them.
SUPPRESSION = {
    "nms, 1,000 uniform": ("nms", nms.uniform, 1_000),
    "nms, 10,000 uniform": ("nms", nms.uniform, 10_000),
    "nms, 50,000 uniform": ("nms", nms.uniform, 50_000),
    "nms, 10,000 clustered": ("nms", nms.clustered, 10_000),
    CHAIN: ("nms", nms.chain, 20_000),
    "batched_nms, 10,000": ("batched_nms", nms.uniform, 10_000),
    "batched_nms, 50,000": ("batched_nms", nms.uniform, 50_000),
    "nms, a million": ("nms", nms.sparse, MILLION),
}


def suppression(setup: Setup, name: str) -> Case:
    function, boxes, n = SUPPRESSION[name]
    # A million boxes keep torchvision busy for a quarter of an hour.
    providers = ("focaldet", "torchvision") if n < MILLION else ("focaldet",)
    return Case(
        name,
        partial(inputs, setup, boxes, min(n, 200) if setup.quick else n, name == CHAIN),
        {p: nms.FUNCTIONS[function][p] for p in providers},
    )


def inputs(setup: Setup, boxes: nms.Layout, n: int, falling: bool) -> nms.Inputs:
    x = nms.inputs(setup, boxes, n)
    return x._replace(scores=x.scores.sort(descending=True).values) if falling else x


# Post-processing --------------------------------------------------------------------------------


def post_processing(setup: Setup, name: str, mean: float) -> Case:
    case = postprocess.case(setup, COCO_800._replace(classes=CLASSES, logits=mean))
    return replace(
        case,
        name=f"{case.name}, {name} candidates",
        providers={name: case.providers[name] for name in ("focaldet", "torchvision")},
    )


if __name__ == "__main__":
    sys.exit(main())
