"""Training: a recipe, one loop, and what it leaves in a folder.

`recipe` says how; `loop` runs epochs, evaluates and saves; `run` holds what changes from step to
step; `update` is one step of the optimizer, on however many processes; `optim` and `history` are
what their names say.
"""

from ..checkpoint import LAST
from .loop import BEST, train
from .recipe import PRECISIONS, Recipe

__all__ = ["BEST", "LAST", "PRECISIONS", "Recipe", "train"]
