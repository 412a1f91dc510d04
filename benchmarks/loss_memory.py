"""`python -m benchmarks.loss_memory MODE`: the memory that retinanet_loss takes beside its maps.

Prints the bytes by which the process grew at most, forward and backward, and those of the gradient.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import re
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import focaldet.ops
from focaldet.ops.retinanet_loss import MODES

from . import retinanet_loss
from .cases import on_cpu
from .common import Setup
from .loss_cases import from_outputs


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser("python -m benchmarks.loss_memory", description=__doc__)
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
    ctypes.CDLL(None).malloc_trim(0)  # else the gradient may settle in what making the maps freed
    Path("/proc/self/clear_refs").write_text("5")  # sets the peak to what is resident now
    before = peak()
    _, _, *gradients = run.use(maps)
    return peak() - before, sum(gradient.nbytes for gradient in gradients)


def peak() -> int:
    """Bytes that were resident at most."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(found[1]) * 1024


if __name__ == "__main__":
    sys.exit(main())
