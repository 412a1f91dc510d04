"""`python -m benchmarks.bars.loss`: how fast training's loss is on the CPU, and is to be.

Runs loss_cases.py twice, with freed memory kept in the process and as malloc is by default, and
loss_memory.py; writes benchmarks/results/loss/cpu.json, which `benchmarks.tables` renders into
docs/benchmarks.md. `--quick` takes tiny inputs, to see that all runs, and writes nothing.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence

from .. import bars
from ..limits import COPY
from . import Result, Target

FOCAL = "`sigmoid_focal_loss`, forward and backward, labels"
LOSS = "`retinanet_loss`, forward and backward, 2 images"
STEP = "training step, ResNet-18, 8 images of 240 x 320"
TARGETS = (
    Target(FOCAL, "focal", "torchvision", "focaldet", 12, 20),
    Target(FOCAL, "focal", "torch.compile", "focaldet", 10, 18),
    Target(FOCAL, "focal", "focaldet", COPY, 3, 1.7),
    Target(FOCAL, "focal", "focaldet", "new copy", 1.3, None, ("default",)),
    Target("`match_anchors`, 20 boxes", "match", "torchvision", "focaldet", 40, 100),
    Target("`generate_anchors`", "anchors", "focaldet", "fill", 4, 2),
    Target(LOSS, "retinanet", "torchvision", "focaldet", 20, 40),
    Target(LOSS, "retinanet", "torchvision", "overwrite", 20, 40),
    Target(f"{STEP}, 3 classes", "step, K=3", "focaldet", "step", 0.005, 0.003),
    Target(f"{STEP}, 80 classes", "step, K=80", "focaldet", "step", 0.005, 0.003),
)
# The memory that retinanet_loss takes at most, in multiples of the gradient's, by mode.
MEMORY = {"save_gradient": (1.05, 0.0), "overwrite": (1.05, 0.0)}
# Providers as the table calls them.
NAMES = {
    COPY: "`copy_` of the logits",
    "new copy": "copy into new memory",
    "fill": "`fill_` of its output",
    "overwrite": "focaldet, overwriting",
    "step": "the whole",
}


def main(argv: Sequence[str] | None = None) -> int:
    return bars.main("loss", __doc__, measured, table, argv)


def measured(rounds: int, quick: bool) -> Result:
    """Times, and bytes for each mode."""
    options = ["--quick"] if quick else []
    memory = {
        mode: json.loads(bars.run("loss_memory", mode, *options, read=True)) for mode in MEMORY
    }
    return {**bars.timed("loss_cases", rounds, quick), "memory": memory}


def table(result: Result) -> str:
    lines = [bars.table(result, TARGETS, NAMES)]
    for mode, (bar, aim) in MEMORY.items():
        taken = result["memory"][mode]
        share = f"{taken['extra'] / taken['gradient']:.3f}x"
        sizes = " / ".join(f"{taken[key] / 1e6:.3g} MB" for key in ("extra", "gradient"))
        lines.append(
            f'| {LOSS}, mode "{mode}" | peak of extra memory / gradient | ≤ {bar:g}x | ≤ {aim:g}x '
            f"|  | {share} ({sizes}) |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
