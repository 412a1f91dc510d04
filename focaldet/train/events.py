"""The records of a training run as TensorBoard's events, beside `metrics.jsonl`, their source."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ..errors import UserError
from .history import ends_epoch


class Events:
    """Writes the numbers of records (see `History`) for `tensorboard --logdir`.

    Those of a step are tagged `train/loss_part`, those of an epoch `epoch/seconds`, and the scores
    of an evaluation `val/AP`; all stand at the record's step. Each record is handed to the system
    at once, as a line of `metrics.jsonl` is: a killed process loses none.
    """

    def __init__(self, folder: str | Path, kept: Sequence[dict[str, Any]] = ()) -> None:
        """`kept`: the records that the run goes on after; readers drop what an interrupted run
        wrote of others. Raises `UserError` where TensorBoard is not installed."""
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise UserError(
                f"TensorBoard's events cannot be written here ({error}); pip install tensorboard, "
                "or do without: metrics.jsonl has the same numbers"
            ) from error
        # From this step on all is dropped: an epoch may have been added that is done again.
        last = kept[-1]["step"] if kept else 0
        self._writer: Any = SummaryWriter(str(folder), purge_step=last)
        for record in kept:
            if record["step"] == last:
                self.add(record)

    def add(self, record: dict[str, Any]) -> None:
        for tag, value in scalars(record):
            self._writer.add_scalar(tag, value, record["step"])
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


def scalars(record: dict[str, Any]) -> Iterator[tuple[str, float]]:
    """The numbers of a record by their tags."""
    group = "epoch" if ends_epoch(record) else "train"
    for name, value in record.items():
        if name == "stats":
            yield from ((f"val/{key}", number) for key, number in value.items())
        elif name != "step" and isinstance(value, int | float):
            yield f"{group}/{name}", value
