"""torch.ops.focaldet, the operators behind the wrappers of `focaldet.ops`, with types.

They take every argument, and check only what memory safety needs. To a type checker torch.ops is
Any: torch_ops.pyi beside this file has their signatures, written from their schemas.
"""

import sys

import torch

from . import _C  # noqa: F401, the operators register themselves when it is loaded

sys.modules[__name__] = torch.ops.focaldet
