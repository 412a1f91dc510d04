"""What a run leaves in its folder, to be compared with what another one left."""

from __future__ import annotations

import importlib.util
import json
import logging
import warnings
from pathlib import Path
from typing import Any

import torch
from generations import same
from tiny_runs import without_clocks

from focaldet.checkpoint import LAST, PREVIOUS, load_checkpoint, load_newest
from focaldet.train import BEST, loop
from focaldet.train.events import scalars

EVENTS = importlib.util.find_spec("tensorboard") is not None


def check_whole(out: Path) -> None:
    """A kill damages no checkpoint."""
    if any((out / name).exists() for name in (LAST, PREVIOUS)):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            load_newest(out, training=True)


def result(out: Path) -> dict[str, Any]:
    """All that a run leaves, but for times."""
    weights, description, state = load_checkpoint(out / LAST, training=True)
    return {
        "weights": weights,
        "description": description,
        "state": state,
        "best": load_checkpoint(out / BEST),
        "metrics": without_clocks(out),
    }


def compare(found: dict[str, Any], expected: dict[str, Any], out: Path) -> None:
    for part, value in expected.items():
        assert same(found[part], value), f"{out}: {part} differs from that of an undisturbed run"


def compare_events(out: Path) -> None:
    """TensorBoard shows what metrics.jsonl says, times too, once each."""
    if EVENTS:
        assert shown(out) == noted(out), f"{out}: TensorBoard shows other numbers"


def shown(out: Path) -> dict[str, list[tuple[int, float]]]:
    """Steps and values by tag, as TensorBoard reads them."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logging.getLogger("tensorboard").setLevel(logging.ERROR)  # it tells of what it drops
    events = EventAccumulator(str(out / loop.EVENTS), size_guidance={"scalars": 0}).Reload()
    tags = events.Tags()["scalars"]
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in tags}


def noted(out: Path) -> dict[str, list[tuple[int, float]]]:
    """The same from metrics.jsonl."""
    found: dict[str, list[tuple[int, float]]] = {}
    for line in (out / "metrics.jsonl").read_text().splitlines():
        record = json.loads(line)
        for tag, value in scalars(record):
            found.setdefault(tag, []).append((record["step"], torch.tensor(value * 1.0).item()))
    return found
