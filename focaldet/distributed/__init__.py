"""Several processes that train one model: who they are, what they do together, and who is missing.

`join` reads torchrun's environment. The package knows torch alone, no model and no data.
"""

from .compiler import patient_with_compiler
from .joining import TIMEOUT, join
from .ranks import ALONE, Ranks, alone
from .sync_norm import SyncBatchNorm, synchronise

__all__ = [
    "ALONE",
    "TIMEOUT",
    "Ranks",
    "SyncBatchNorm",
    "alone",
    "join",
    "patient_with_compiler",
    "synchronise",
]
