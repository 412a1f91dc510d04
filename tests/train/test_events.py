"""TensorBoard's events: the numbers of the records, once each, however often a run was resumed."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from focaldet.errors import UserError
from focaldet.train.events import Events, scalars


def step(number: int, loss: float) -> dict[str, Any]:
    return {"epoch": 1, "step": number, "classification": loss, "lr": 0.5}


EPOCH = {
    "epoch": 1,
    "step": 2,
    "loss": 0.25,
    "images_per_second": 3,
    "stats": {"AP": 0.5, "AP50": 0.75},
}


def read(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """By tag, what TensorBoard shows."""
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = accumulator.EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
    return {
        tag: [(event.step, event.value) for event in events.Scalars(tag)]
        for tag in events.Tags()["scalars"]
    }


def test_every_number_of_a_record_stands_at_its_step(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    events = Events(tmp_path)
    for record in (step(1, 4.0), step(2, 3.0), EPOCH):
        events.add(record)
    found = read(tmp_path)  # before it is closed: a run that is killed closes nothing
    events.close()
    assert found == {
        "train/epoch": [(1, 1.0), (2, 1.0)],
        "train/classification": [(1, 4.0), (2, 3.0)],
        "train/lr": [(1, 0.5), (2, 0.5)],
        "epoch/epoch": [(2, 1.0)],
        "epoch/loss": [(2, 0.25)],
        "epoch/images_per_second": [(2, 3.0)],
        "val/AP": [(2, 0.5)],
        "val/AP50": [(2, 0.75)],
    }


def test_a_resumed_run_repeats_nothing(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    kept: list[dict[str, Any]] = []
    for first, last in ((1, 5), (3, 4), (4, 6)):  # resumed after steps 2 and 3
        kept = [record for record in kept if record["step"] < first]
        events = Events(tmp_path, kept)
        for number in range(first, last + 1):
            kept.append(step(number, 10.0 * first + number))
            events.add(kept[-1])
        events.close()
    expected = [(1, 11.0), (2, 12.0), (3, 33.0), (4, 44.0), (5, 45.0), (6, 46.0)]
    assert read(tmp_path)["train/classification"] == expected


def test_an_epoch_that_is_ended_twice_is_there_once(tmp_path: Path) -> None:
    """Killed after it was noted, and resumed from the checkpoint of its last step."""
    pytest.importorskip("tensorboard")
    steps = [step(1, 4.0), step(2, 3.0)]
    for kept, added in (([], [*steps, EPOCH]), (steps, [EPOCH, step(3, 2.0)])):
        events = Events(tmp_path, kept)
        for record in added:
            events.add(record)
        events.close()
    found = read(tmp_path)
    assert found["epoch/loss"] == [(2, 0.25)]
    assert found["train/classification"] == [(1, 4.0), (2, 3.0), (3, 2.0)]


def test_what_is_no_number_is_left_out() -> None:
    record = {"step": 1, "epoch": 2, "images": ["a.png"], "note": "text", "lr": 1}
    assert dict(scalars(record)) == {"train/epoch": 2, "train/lr": 1}


def test_a_missing_package_is_one_clear_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(UserError, match="pip install tensorboard"):
        Events(tmp_path / "events")
    assert not (tmp_path / "events").exists()
