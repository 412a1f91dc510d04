"""The record of a training run: `metrics.jsonl`, one line a step and an epoch, and its curves."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

from ..files import write_atomically
from ..plots import smooth, training_curves

LOSSES = ("classification", "bbox_regression")


class History:
    """Appends records to `metrics.jsonl` in the folder, and draws them as `curves.png`.

    A record is a dict with "step", the updates done, and "epoch", from 1; that of a step has the
    loss parts, "lr", "grad_norm" and "n_foreground", that of an epoch ends it and has "seconds",
    "images_per_second" and, where it was evaluated, the 12 numbers under "stats".
    """

    def __init__(self, folder: Path, epochs_done: int = 0, steps_done: int = 0) -> None:
        """Goes on after so much: what was recorded of later steps and epochs is dropped."""
        self.folder = folder
        self.file: Path = folder / "metrics.jsonl"
        self.records: list[dict[str, Any]] = []
        lines = self.file.read_text().splitlines() if steps_done and self.file.exists() else []
        for line in lines:
            if not line.endswith("}"):
                break  # cut while it was written
            record = json.loads(line)
            ends_epoch = "images_per_second" in record
            if record["step"] > steps_done or (ends_epoch and record["epoch"] > epochs_done):
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
