"""torchvision.ops with our operators under its names, for a while."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from ._operators import OURS, TORCHVISION

_lock = threading.Lock()
_depth = 0


@contextmanager
def patch_ops() -> Iterator[None]:
    """Within it, `torchvision.ops.{nms, batched_nms, sigmoid_focal_loss}` are focaldet's.

    Reached is every name in torchvision's own modules, looked up at call time: torchvision.ops,
    torchvision.ops.boxes and .focal_loss, and the detectors in torchvision.models.detection. Not
    reached are names that others took before, as with `from torchvision.ops import nms`, which keep
    torchvision's function (write `torchvision.ops.nms(...)` instead), names that others take
    within, which keep ours afterwards, scripted code, and `torch.ops.torchvision.nms`.

    The patch holds for the process, all of its threads included. It nests, and the outermost exit,
    by an exception too, puts torchvision's functions back. What ours do not take (quantized boxes,
    thresholds outside of [0, 1], gradients of the targets, ...) goes to torchvision's, with its
    results and its errors. Results differ from torchvision's where `focaldet.ops` says so: an IoU
    of exactly the threshold in float32 on the CPU, NaN boxes, and groups that batched_nms tells
    apart by shifting coordinates; sums of half-type losses come in float32.
    """
    global _depth
    with _lock:
        if _depth == 0:
            _rename(TORCHVISION, OURS)
        _depth += 1
    try:
        yield
    finally:
        with _lock:
            _depth -= 1
            if _depth == 0:
                _rename(OURS, TORCHVISION)


def _rename(before: Mapping[str, Any], after: Mapping[str, Any]) -> None:
    """In torchvision's modules, by identity: also in those that were first imported meanwhile."""
    for name, module in list(sys.modules.items()):
        if module is not None and (name == "torchvision" or name.startswith("torchvision.")):
            for key, function in before.items():
                if vars(module).get(key) is function:
                    setattr(module, key, after[key])
