"""Hand-written CUDA and C++ operators for dense object detection, and a RetinaNet made of them."""

from __future__ import annotations

from types import ModuleType

from ._extension import check_torch, load_cpu_module, load_cuda_module

check_torch()
load_cpu_module()

from . import _C

_C_cuda: ModuleType | None
cuda_reason: str  # why there is no _C_cuda
_C_cuda, cuda_reason = load_cuda_module()

from . import ops
from .ops import AnchorGrid, Anchors

__version__: str = _C.version
__all__ = ["AnchorGrid", "Anchors", "__version__", "ops"]
