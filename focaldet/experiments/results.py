"""What an experiment left, read again; and what the seeds of a row say together."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..files import read_json
from ..words import counted

RESULTS = "results.json"  # the name of the file

Results = Mapping[str, Any]  # its content, see `run_experiment`
Row = Mapping[str, Any]


@dataclass(frozen=True)
class Sample:
    """A score of a row, in percent as in the paper: a value for each seed."""

    values: tuple[float, ...]

    def __len__(self) -> int:
        return len(self.values)

    @property
    def mean(self) -> float:
        return sum(self.values) / len(self.values)

    @property
    def deviation(self) -> float | None:
        """The standard deviation of the seeds, with n - 1; None of fewer than two."""
        if len(self) < 2:
            return None
        squares = sum((value - self.mean) ** 2 for value in self.values)
        return math.sqrt(squares / (len(self) - 1))

    @property
    def text(self) -> str:
        if not self.values:
            return "open"
        spread = "" if self.deviation is None else f" ± {self.deviation:.1f}"
        return f"{self.mean:.1f}{spread}"


def sample(row: Row, name: str = "AP") -> Sample:
    """What the runs of a row that are done got. A score of -1, which pycocotools gives where there
    is nothing to score, is none."""
    scores = (run["stats"].get(name, -1) for run in row["runs"])
    return Sample(tuple(100 * score for score in scores if score >= 0))


def diverged(row: Row) -> list[int]:
    """The seeds whose runs diverged."""
    return [run["seed"] for run in row.get("diverged", ())]


def milliseconds(row: Row) -> Sample:
    """The times of inference of the runs that were timed."""
    return Sample(tuple(run["milliseconds"] for run in row["runs"] if run.get("milliseconds")))


def read_results(path: str | Path) -> Results:
    """A results.json. Raises `UserError` for what is not one."""
    results = read_json(path)
    try:
        results["experiment"], results["table"], results["data"]["digest"], described(results)
        for row in results["rows"]:
            row["label"], row["changes"], row["paper"], sample(row), milliseconds(row)
            for run in row["runs"]:
                run["seed"], run["minutes"], run["device"], run["threads"], run["torch"]
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path}: no results of an experiment ({type(error).__name__}: {error}); expected the "
            "results.json that `focaldet experiment` writes"
        ) from None
    return dict(results)


def described(results: Results) -> str:
    """What was measured, in a line: data, recipe, runs."""
    data, done = results["data"], sum(len(row["runs"]) for row in results["rows"])
    images = [f"{number} {split}" for split, number in data["images"].items()]
    parts = [data.get("name"), f"{', '.join(images)} images", f"recipe {results['recipe']['name']}"]
    return ", ".join(filter(None, [*parts, counted(done, "run")]))
