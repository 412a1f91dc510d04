"""Fused CUDA and C++ operators for dense object detection, and a RetinaNet made of them."""

from __future__ import annotations

import torch

try:
    from . import _C
except ImportError as error:
    if isinstance(error, ModuleNotFoundError):
        reason = (
            "the extension focaldet._C is not built here. Run `pip install .` in the source folder "
            "and start Python elsewhere, or run `pip install -e .`"
        )
    else:
        reason = f"the extension focaldet._C does not load ({error}). Reinstall: `pip install .`"
    raise ImportError(f"focaldet: {reason}") from None

if torch.version.cuda is not None:
    # Needs libtorch_cuda, so it is another module: _C loads beside a CPU-only torch as well.
    try:
        from . import _C_cuda
    except ImportError:
        _C_cuda = None
else:
    _C_cuda = None

from . import ops
from .ops import AnchorGrid, Anchors

__version__: str = _C.version
__all__ = ["AnchorGrid", "Anchors", "__version__", "ops"]
