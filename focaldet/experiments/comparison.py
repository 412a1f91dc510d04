"""Whether focal loss won: against balanced cross entropy, and against hard example mining."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import UserError
from .results import Results, Row, Sample, diverged, sample

FOCAL = "FL, gamma 2, alpha 0.25"  # the best row of Table 1b


@dataclass(frozen=True)
class Rival:
    """What an experiment compares focal loss with."""

    name: str
    losses: tuple[str, ...]  # of its rows' models
    choice: str  # its best row in the paper
    sweep: str | None  # another experiment that has rows of it


RIVALS = {
    "fl-gamma": Rival(
        "balanced cross entropy", ("balanced_cross_entropy",), "CE, alpha 0.75", "ce-alpha"
    ),
    "ohem": Rival("OHEM", ("ohem", "ohem_1to3"), "OHEM, 128 at 0.5", None),
}

# Two-sided 95 % points of Student's t for 1, 2, ... degrees of freedom, from any table of it. For
# more than ten the last is taken, which is too much by 14 % at most.
T_95 = (12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26, 2.23)


@dataclass(frozen=True)
class Comparison:
    """A row of focal loss against one of its rival, AP in percent."""

    what: str  # which rows were taken
    focal: str  # their labels
    rival: str
    means: tuple[float, float]
    seeds: tuple[int, int]
    difference: float
    # None where a row has one seed, or no seed differs from another: no spread is known.
    standard_error: float | None  # of the difference
    standard_errors: float | None  # how many of them the difference is
    needed: float | None  # how many it takes for 95 %, by Student's t

    @property
    def sentence(self) -> str:
        (focal, rival), (n, m) = self.means, self.seeds
        rows = f"{self.focal} ({focal:.1f}) against {self.rival} ({rival:.1f})"
        if self.standard_errors is None or self.needed is None:
            end = f"{self.difference:+.1f} AP with {n} and {m} seeds, no spread, nothing decided"
        else:
            verdict = "wins" if self.difference > 0 else "loses"
            if abs(self.standard_errors) < self.needed:
                verdict = "is ahead, not beyond doubt" if self.difference > 0 else "is not ahead"
            end = (
                f"focal loss {verdict}, {self.difference:+.1f} AP or {self.standard_errors:+.1f} "
                f"standard errors with {n} and {m} seeds (95 % takes {self.needed:.1f})"
            )
        return f"{self.what}, {rows}: {end}."


def comparisons(results: Results, sweep: Results | None = None) -> list[Comparison]:
    """Focal loss against the rival of the experiment, if it has one and both have runs.

    `sweep` adds rows of the rival, those of another experiment on the same data with the same
    recipe; of a row that both have, each seed counts once. First the best row of each by mean AP,
    of those with more than one seed. Rows of which a run diverged are left out: the mean of the
    others flatters them. The best of several is flattered by its luck, and by being
    chosen on the images that it is scored on, the more so the more rows there are; so then the
    rows that the paper chose, which are not chosen here. Standard errors are Welch's, of two
    samples with their own variances.
    Raises `UserError` for a sweep of other data or another recipe.
    """
    rival = RIVALS.get(results["experiment"])
    if rival is None:
        return []
    if sweep and not same_setup(results, sweep):
        raise UserError(
            f"{sweep['experiment']} and {results['experiment']}: of different data or recipes; "
            "expected experiments that differ by their rows alone"
        )
    rows = _by_label([*results["rows"], *(sweep["rows"] if sweep else ())])
    ours, theirs = _samples(rows, ("focal",)), _samples(rows, rival.losses)
    if not (ours and theirs):
        return []
    what = f"The best of {len(ours)} of focal loss and of {len(theirs)} of {rival.name}"
    found = [_compare(what, _best(ours), _best(theirs))]
    if FOCAL in ours and rival.choice in theirs:
        chosen = (FOCAL, ours[FOCAL]), (rival.choice, theirs[rival.choice])
        found.append(_compare("The paper's choice", *chosen))
    return found


def same_setup(a: Results, b: Results) -> bool:
    return all(a[key] == b[key] for key in ("data", "recipe"))


def _by_label(rows: Iterable[Row]) -> dict[str, Row]:
    """The runs of equal rows put together, but for rows of which one diverged."""
    merged: dict[str, Any] = {}
    for row in rows:
        if diverged(row):
            continue
        each = merged.setdefault(row["label"], {"changes": row["changes"], "runs": {}})
        each["runs"].update({run["seed"]: run for run in row["runs"]})
    return {label: {**row, "runs": list(row["runs"].values())} for label, row in merged.items()}


def _samples(rows: Mapping[str, Row], losses: Sequence[str]) -> dict[str, Sample]:
    """Of the rows with one of these losses that have runs."""
    found = {
        label: sample(row)
        for label, row in rows.items()
        if row["changes"].get("model", {}).get("loss") in losses
    }
    return {label: each for label, each in found.items() if each.values}


def _best(samples: Mapping[str, Sample]) -> tuple[str, Sample]:
    """By its mean; one seed is not enough, where another row has more."""
    several = [item for item in samples.items() if len(item[1]) > 1]
    return max(several or samples.items(), key=lambda item: item[1].mean)


def _compare(what: str, focal: tuple[str, Sample], rival: tuple[str, Sample]) -> Comparison:
    (label, a), (other, b) = focal, rival
    difference = a.mean - b.mean
    error, freedom = _welch(a, b)
    return Comparison(
        what,
        label,
        other,
        means=(a.mean, b.mean),
        seeds=(len(a), len(b)),
        difference=difference,
        standard_error=error,
        standard_errors=difference / error if error else None,
        needed=T_95[min(freedom, len(T_95)) - 1] if freedom else None,
    )


def _welch(a: Sample, b: Sample) -> tuple[float | None, int | None]:
    """The standard error of the difference of two means, and its degrees of freedom, rounded down
    (Welch 1947, "The generalization of Student's problem", Biometrika 34)."""
    if a.deviation is None or b.deviation is None:
        return None, None
    u, v = a.deviation**2 / len(a), b.deviation**2 / len(b)
    if u + v == 0:
        return None, None
    freedom = (u + v) ** 2 / (u**2 / (len(a) - 1) + v**2 / (len(b) - 1))
    return math.sqrt(u + v), int(freedom + 1e-9)  # at least 1, but for rounding
