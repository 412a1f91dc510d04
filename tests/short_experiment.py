"""An experiment of seconds: two rows of a table, with a small model on small images."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from focaldet.experiments import Experiment
from focaldet.experiments.rows import FL_GAMMA
from focaldet.recipes import Configuration

RECIPE = """
about = "seconds"
[model]
backbone = "resnet18"
width = 16
fpn_channels = 16
head_depth = 1
min_size = 64
max_size = 64
[anchors]
sizes = [8, 16, 32, 64, 128]
[train]
epochs = 1
batch_size = 2
workers = 0
"""
TINY = Configuration(
    "tiny",
    "seconds",
    model={"backbone": "resnet18", "width": 16, "fpn_channels": 16, "head_depth": 1}
    | {"min_size": 64, "max_size": 64},
    anchors={"sizes": [8, 16, 32, 64, 128]},
    train={"epochs": 1, "batch_size": 2, "workers": 0},
)
FROZEN = TINY.with_(model={"norm": "frozen"})
SHORT = Experiment("short", "0", "Two rows of a table", (FL_GAMMA.rows[0], FL_GAMMA.rows[5]))

Start = Callable[..., dict[str, Any]]  # of the fixture `start`
