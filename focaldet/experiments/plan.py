"""The runs of an experiment: which, of what, and what they are called."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..recipes import Configuration
from .bodies import Bodies
from .rows import Experiment, Row


@dataclass(frozen=True)
class Planned:
    """A run, done or not."""

    row: Row
    seed: int
    configuration: Configuration
    body: Mapping[str, str]  # the file of weights that it begins with, see `Bodies.fitting`
    name: str  # of its folder: the same for the same recipe, weights, data and seed


def plan(
    experiment: Experiment, setup: Configuration, bodies: Bodies, data: str, seeds: Sequence[int]
) -> list[Planned]:
    """All rows with the first seed, then with the next. `data` is a digest of it. Raises
    `UserError` for what a row's recipe or weights do not take."""
    return [_planned(row, setup, bodies, data, seed) for seed in seeds for row in experiment.rows]


def _planned(row: Row, setup: Configuration, bodies: Bodies, data: str, seed: int) -> Planned:
    configuration = bodies.prepared(setup.with_(**row.changes).with_(train={"seed": seed}))
    body = bodies.fitting(configuration)
    identity = [configuration.tables(), data, *([body["digest"]] if body else [])]
    slug = re.sub(r"[^a-z0-9.]+", "-", row.label.lower()).strip("-")
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:8]
    return Planned(row, seed, configuration, body, f"{slug}-seed{seed}-{digest}")
