"""`python -m benchmarks.bars.suppression`: how fast maps turn into detections and boxes are
suppressed on the CPU, and how fast they are to.

Runs suppression_cases.py twice, with freed memory kept in the process and as malloc is by default,
and nms_memory.py; writes benchmarks/results/suppression/cpu.json, which `benchmarks.tables` renders
into docs/benchmarks.md. `--quick` takes tiny inputs, to see that all runs, and writes nothing.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence

from .. import bars
from ..report import HEAPS, duration, spread
from . import Result, Target

AGAINST = "torchvision", "focaldet"
FEW = "`retinanet_postprocess`, about 700 candidates"
MANY = "`retinanet_postprocess`, about 1.5 million candidates"
MILLION = "`nms`, 1,000,000 boxes in one group"
TARGETS = (
    Target("`nms`, 1,000 uniform boxes", "nms, 1,000 uniform", *AGAINST, 10, 20),
    Target("`nms`, 10,000 uniform boxes", "nms, 10,000 uniform", *AGAINST, 30, 100),
    Target("`nms`, 50,000 uniform boxes", "nms, 50,000 uniform", *AGAINST, 40, 100),
    Target("`nms`, 10,000 boxes in clusters", "nms, 10,000 clustered", *AGAINST, 12, 50),
    Target("`nms`, a chain of 20,000 boxes", "nms, a chain of 20,000", *AGAINST, 1, 10),
    Target("`batched_nms`, 10,000 boxes, 80 classes", "batched_nms, 10,000", *AGAINST, 10, 40),
    Target("`batched_nms`, 50,000 boxes, 80 classes", "batched_nms, 50,000", *AGAINST, 10, 40),
    Target(FEW, "postprocess, few", *AGAINST, 15, 40),
    Target(FEW, "postprocess, few", "focaldet", "read", None, None),
    Target(MANY, "postprocess, many", *AGAINST, 10, 20),
    Target(MANY, "postprocess, many", "focaldet", "read", None, None),
)
# Providers as the table calls them.
NAMES = {"read": "`amax` of the logits"}


def main(argv: Sequence[str] | None = None) -> int:
    return bars.main("suppression", __doc__, measured, table, argv)


def measured(rounds: int, quick: bool) -> Result:
    options = ["--quick"] if quick else []
    memory = json.loads(bars.run("nms_memory", *options, read=True))
    return {**bars.timed("suppression_cases", rounds, quick), "memory": memory}


def table(result: Result) -> str:
    """And a million boxes, which have no peer to be compared with."""
    rows = [[row for row in result[heap] if row["op"] == "nms, a million"] for heap in HEAPS]
    times = " | ".join(duration(spread(row["seconds"]).median) for (row,) in rows)
    memory = " / ".join(f"{result['memory'][key] / 1e6:.3g} MB" for key in ("extra", "inputs"))
    return "\n".join(
        [
            bars.table(result, TARGETS, NAMES),
            f"| {MILLION} | time | ≤ 3 s | ≤ 1 s | {times} |",
            f"| {MILLION} | peak of extra memory / inputs | ≤ 200 MB |  |  | {memory} |",
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
