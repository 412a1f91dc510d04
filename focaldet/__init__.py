"""Hand-written CUDA and C++ operators for dense object detection, and a RetinaNet made of them."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

import torch

try:
    _C = import_module("focaldet._C")
except ModuleNotFoundError:
    raise ImportError(
        "focaldet: the extension focaldet._C is not built here. Run `pip install .` in the source "
        "folder and start Python elsewhere, or run `pip install -e .`"
    ) from None
except ImportError as error:
    raise ImportError(
        f"focaldet: the extension focaldet._C does not load: {error} (if it was built for another "
        "Python or moved here, `pip install .` builds it anew)"
    ) from None


def _load_cuda_module() -> tuple[ModuleType | None, str]:
    """_C_cuda, or None and why there is none.

    The CUDA kernels are a module of their own because they need libtorch_cuda: _C loads beside a
    CPU-only torch as well.
    """
    if torch.version.cuda is None:
        return None, "this torch is CPU only"
    try:
        return import_module("focaldet._C_cuda"), ""
    except ModuleNotFoundError:
        return None, "focaldet was built without CUDA (FOCALDET_CUDA=1 builds it)"
    except ImportError as error:
        return None, str(error)


_C_cuda, cuda_reason = _load_cuda_module()

from . import ops
from .ops import AnchorGrid, Anchors

__version__: str = _C.version
__all__ = ["AnchorGrid", "Anchors", "__version__", "ops"]
