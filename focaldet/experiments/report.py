"""An experiment's results beside the paper's, in Markdown; and whether focal loss won."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import UserError
from .results import Results, Row, Sample, described, milliseconds, sample

# The rows that others are compared with; elsewhere the first of the table.
BASELINES = {
    "ce-alpha": "CE, alpha 0.5",  # plain cross entropy, halved
    "ohem": "FL, gamma 2, alpha 0.25",
}
FOCAL = "focal"
RIVALS = {  # losses of the rows that focal loss is compared with, by what they are called
    "balanced cross entropy": ("balanced_cross_entropy",),
    "OHEM": ("ohem", "ohem_1to3"),
}
PAPERS_CHOICES = {  # the best rows of Tables 1b, 1a and 1d
    FOCAL: "FL, gamma 2, alpha 0.25",
    "balanced cross entropy": "CE, alpha 0.75",
    "OHEM": "OHEM, 128 at 0.5",
}

# Two-sided 95 % points of Student's t for 1, 2, ... degrees of freedom, from any table of it. For
# more than ten the last is taken, which is too much by 14 % at most.
T_95 = (12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26, 2.23)


def table(results: Results) -> str:
    """A row for each of the experiment's: AP and AP50 (mean over the seeds and their standard
    deviation, in percent), each seed's AP, the paper's AP; beside both, the difference to the
    baseline's row. A row without runs is open."""
    rows: Sequence[Row] = results["rows"]
    timed = any(milliseconds(row).values for row in rows)
    baseline = _baseline(results)
    columns = ("AP", "to baseline", "AP50", *["ms"] * timed, "AP by seed", "paper's", "to baseline")
    lines = [
        f"AP in percent, mean over seeds ± standard deviation; {described(results)}; baseline: "
        f"{baseline['label']}.",
        "",
        f"| | {' | '.join(columns)} |",
        f"|---|{'---:|' * len(columns)}",
    ]
    for row in rows:
        ap, base = sample(row), sample(baseline)
        other = row is not baseline
        papers = None not in (row["paper"], baseline["paper"])
        cells = [
            ap.text,
            f"{ap.mean - base.mean:+.1f}" if other and ap.values and base.values else "",
            sample(row, "AP50").text if ap.values else "",
            *[milliseconds(row).text if milliseconds(row).values else ""] * timed,
            ", ".join(f"{value:.1f}" for value in ap.values),
            "" if row["paper"] is None else f"{row['paper']:.1f}",
            f"{row['paper'] - baseline['paper']:+.1f}" if other and papers else "",
        ]
        lines.append(f"| {row['label']} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _baseline(results: Results) -> Row:
    rows: Sequence[Row] = results["rows"]
    wanted = BASELINES.get(results["experiment"])
    return next((row for row in rows if row["label"] == wanted), rows[0])


@dataclass(frozen=True)
class Comparison:
    """Focal loss against a rival: two rows, AP in percent."""

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
                verdict = "neither wins nor loses"
            end = (
                f"focal loss {verdict}, {self.difference:+.1f} AP or {self.standard_errors:+.1f} "
                f"standard errors with {n} and {m} seeds (95 % takes {self.needed:.1f})"
            )
        return f"{self.what}, {rows}: {end}."


def comparisons(*experiments: Results) -> list[Comparison]:
    """Focal loss against each of RIVALS, over the rows of all these experiments, which must be of
    the same data and recipe.

    First the best row of each by mean AP. The best of several is flattered by its luck, and by
    being chosen on the images that it is scored on, the more so the more rows there are; so then
    the rows that the paper chose, which are not chosen here. Of a row that two experiments have,
    each seed counts once. Standard errors are Welch's, of two samples with their own variances.
    Nothing for a rival without runs. Raises `UserError` for other data or recipes.
    """
    first = experiments[0]
    for other in experiments[1:]:
        for key in ("data", "recipe"):
            if other[key] != first[key]:
                raise UserError(
                    f"{other['experiment']} is of another {key} than {first['experiment']}; "
                    "expected experiments that differ by their rows alone"
                )
    rows = _by_label(row for results in experiments for row in results["rows"])
    focal = _samples(rows, (FOCAL,))
    found = []
    for name, losses in RIVALS.items():
        rival = _samples(rows, losses)
        if not (focal and rival):
            continue
        best = [max(side, key=lambda label: side[label].mean) for side in (focal, rival)]
        counts = f"The best of {len(focal)} of focal loss and of {len(rival)} of {name}"
        found.append(_compare(counts, (best[0], focal[best[0]]), (best[1], rival[best[1]])))
        chosen = PAPERS_CHOICES[FOCAL], PAPERS_CHOICES[name]
        if chosen[0] in focal and chosen[1] in rival:
            sides = (chosen[0], focal[chosen[0]]), (chosen[1], rival[chosen[1]])
            found.append(_compare("The paper's choice", *sides))
    return found


def _by_label(rows: Iterable[Row]) -> dict[str, Row]:
    """The runs of equal rows put together."""
    merged: dict[str, Any] = {}
    for row in rows:
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
