"""The record of a training run: `metrics.jsonl`, one line a step and an epoch, and its curves."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

from ..files import write_atomically
from ..plots import smooth, training_curves

LOSSES = ("classification", "bbox_regression")


def ends_epoch(record: dict[str, Any]) -> bool:
    """Whether the record is one of an epoch, and not of a step."""
    return "images_per_second" in record


class History:
    """Appends records to `metrics.jsonl` in the folder, and draws them as `curves.png`.

    A record is a dict with "step", the updates done, "epoch", from 1, and "seconds". That of a step
    has the loss parts, "lr", "grad_norm", "n_foreground", "waited_for_data" (seconds), and
    "skipped" with the reason where there was no update. That of an epoch ends it, and has "loss",
    "images_per_second", "bad_steps" (so far) and, where it was evaluated, the 12 numbers under
    "stats".
    """

    def __init__(self, folder: Path, epochs_done: int = 0, steps_done: int = 0) -> None:
        """Goes on after so much: what was recorded of later steps and epochs is dropped."""
        self.folder = folder
        self.file: Path = folder / "metrics.jsonl"
        self.records: list[dict[str, Any]] = []
        lines = self.file.read_text().splitlines() if steps_done and self.file.exists() else []
        for line in lines:
            try:
                record = json.loads(line)
            except ValueError:
                break  # cut while it was written
            later_epoch = ends_epoch(record) and record["epoch"] > epochs_done
            if record["step"] > steps_done or later_epoch:
                break
            self.records.append(record)
        kept = "".join(json.dumps(record) + "\n" for record in self.records)
        write_atomically(self.file, kept.encode())

    def add(self, record: dict[str, Any]) -> None:
        self.records.append(record)
        with open(self.file, "a") as file:
            file.write(json.dumps(record) + "\n")

    def draw(self) -> None:
        steps = [record for record in self.records if LOSSES[0] in record]
        losses = {
            name: smooth(
                [(r["step"], r[name]) for r in steps if r[name] is not None],
                window=1 + len(steps) // 200,
            )
            for name in LOSSES
        }
        scored = [record for record in self.records if "stats" in record]
        averages = {
            name: [(record["epoch"], max(0.0, record["stats"][name])) for record in scored]
            for name in ("AP", "AP50")
        }
        png = io.BytesIO()
        training_curves(losses, averages).save(png, "png")
        write_atomically(self.folder / "curves.png", png.getvalue())
