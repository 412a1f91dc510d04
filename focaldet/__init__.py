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

# Its own module, because it needs libtorch_cuda: _C loads beside a CPU-only torch as well.
_C_cuda = None
cuda_reason = "this torch is CPU only"
if torch.version.cuda is not None:
    try:
        from . import _C_cuda
    except ModuleNotFoundError:
        cuda_reason = "focaldet was built without CUDA (FOCALDET_CUDA=1 builds it)"
    except ImportError as error:
        cuda_reason = str(error)

from . import ops
from .ops import AnchorGrid, Anchors

__version__: str = _C.version
__all__ = ["AnchorGrid", "Anchors", "__version__", "ops"]
