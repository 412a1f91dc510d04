"""`python -m benchmarks.bars.loss_memory MODE`: the memory that retinanet_loss takes beside
its maps.

Prints the bytes by which the process grew at most, forward and backward, and those of the gradient.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from functools import partial

import focaldet.ops
from focaldet.ops.choices import MODES

from .. import memory
from ..inputs import Setup
from ..ops import retinanet_loss
from .command import on_cpu
from .loss_cases import from_outputs


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser("python -m benchmarks.bars.loss_memory", description=__doc__)
    parser.add_argument("mode", choices=MODES)
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args(argv)
    growth(args.mode, on_cpu(quick=True))  # what a first call takes once
    extra, gradient = growth(args.mode, on_cpu(args.quick))
    print(json.dumps({"extra": extra, "gradient": gradient}))
    return 0


def growth(mode: str, setup: Setup) -> tuple[int, int]:
    x = retinanet_loss.inputs(setup, batch=2)
    loss = partial(focaldet.ops.retinanet_loss, mode=mode, **retinanet_loss.SETTINGS)
    run = from_outputs(lambda *maps: loss(*maps, x.grid, *x.truth), (x.cls_logits, x.box_deltas))
    maps = run.make()
    extra, (_, _, *gradients) = memory.growth(lambda: run.use(maps))
    return extra, sum(gradient.nbytes for gradient in gradients)


if __name__ == "__main__":
    sys.exit(main())
