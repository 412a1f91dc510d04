"""`python -m benchmarks.bars.nms_memory`: the memory that nms of a million boxes takes beside them.

Prints the bytes by which the process grew at most, and those of the boxes and scores.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence

import focaldet.ops

from .. import memory
from ..ops import nms
from .command import on_cpu
from .suppression_cases import MILLION


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser("python -m benchmarks.bars.nms_memory", description=__doc__)
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args(argv)
    for n in (1000, 1000 if args.quick else MILLION):  # first, what a first call takes once
        x = nms.inputs(on_cpu(args.quick), nms.sparse, n)
        extra, _ = memory.growth(lambda x=x: focaldet.ops.nms(*nms.one_group(x)))
    print(json.dumps({"extra": extra, "inputs": x.boxes.nbytes + x.scores.nbytes}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
