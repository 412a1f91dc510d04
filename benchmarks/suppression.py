"""`python -m benchmarks.suppression`: how fast maps turn into detections on the CPU, and how fast
they are to.

Runs benchmarks.suppression_cases twice, with freed memory kept in the process and as malloc is by
default; writes benchmarks/results/suppression/cpu.json, which `benchmarks.tables` renders into the
README. `--quick` takes tiny inputs, to see that all runs, and writes nothing.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import partial

from . import bars
from .bars import Result, Target

FEW = "`retinanet_postprocess`, about 700 candidates"
MANY = "`retinanet_postprocess`, about 1.5 million candidates"
TARGETS = (
    Target(FEW, "postprocess, few", "torchvision", "focaldet", 15, 40),
    Target(FEW, "postprocess, few", "focaldet", "read", None, None),
    Target(MANY, "postprocess, many", "torchvision", "focaldet", 10, 20),
    Target(MANY, "postprocess, many", "focaldet", "read", None, None),
)
# Providers as the table calls them.
NAMES = {"read": "`amax` of the logits"}


def main(argv: Sequence[str] | None = None) -> int:
    return bars.main("suppression", __doc__, measured, table, argv)


measured = partial(bars.timed, "suppression_cases")


def table(result: Result) -> str:
    return bars.table(result, TARGETS, NAMES)


if __name__ == "__main__":
    sys.exit(main())
