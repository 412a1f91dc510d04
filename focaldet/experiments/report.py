"""An experiment's results beside the paper's, in Markdown; and whether focal loss won."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ..errors import UserError
from .results import Results, Row, Sample, described, milliseconds, sample

# The rows that others are compared with; elsewhere the first of the table.
BASELINES = {
    "ce-alpha": "CE, alpha 0.5",  # plain cross entropy, halved
    "ohem": "FL, gamma 2, alpha 0.25",
}
PAPERS_CHOICE = ("FL, gamma 2, alpha 0.25", "CE, alpha 0.75")  # the best of Table 1b, of Table 1a

# Two-sided 95 % points of Student's t for 1, 2, ... degrees of freedom, from any table of it.
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
    base, paper = sample(baseline), baseline["paper"]
    for row in rows:
        ap = sample(row)
        cells = [
            ap.text,
            f"{ap.mean - base.mean:+.1f}" if ap.values and base.values else "",
            sample(row, "AP50").text if ap.values else "",
            *[milliseconds(row).text if milliseconds(row).values else ""] * timed,
            ", ".join(f"{value:.1f}" for value in ap.values),
            "" if row["paper"] is None else f"{row['paper']:.1f}",
            "" if None in (row["paper"], paper) else f"{row['paper'] - paper:+.1f}",
        ]
        lines.append(f"| {row['label']} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _baseline(results: Results) -> Row:
    rows: Sequence[Row] = results["rows"]
    wanted = BASELINES.get(results["experiment"])
    return next((row for row in rows if row["label"] == wanted), rows[0])


@dataclass(frozen=True)
class Comparison:
    """Focal loss against balanced cross entropy: two rows, AP in percent."""

    what: str  # which rows were taken
    focal: str  # their labels
    balanced: str
    means: tuple[float, float]
    seeds: tuple[int, int]
    difference: float
    # None where a row has one seed, or no seed differs from another: no spread is known.
    standard_error: float | None  # of the difference
    standard_errors: float | None  # how many of them the difference is
    needed: float | None  # how many it takes for 95 %, by Student's t

    @property
    def sentence(self) -> str:
        (focal, balanced), (n, m) = self.means, self.seeds
        rows = f"{self.focal} ({focal:.1f}) against {self.balanced} ({balanced:.1f})"
        apart = f"{self.difference:+.1f} AP"
        if self.standard_errors is None or self.needed is None:
            end = f"{apart} with {n} and {m} seeds: no spread is known, so nothing is decided"
        else:
            far = abs(self.standard_errors) >= self.needed
            verdict = "wins" if self.difference > 0 else "loses"
            end = (
                f"focal loss {verdict if far else 'neither wins nor loses'}, {apart} or "
                f"{self.standard_errors:+.1f} standard errors ({n} and {m} seeds; 95 % takes "
                f"{self.needed:.1f})"
            )
        return f"{self.what}, {rows}: {end}."


def comparisons(*experiments: Results) -> list[Comparison]:
    """Focal loss against balanced cross entropy, over the rows of all these experiments, which
    must be of the same data and recipe.

    First the best row of each by mean AP. The best of several is flattered by its luck, and by
    being chosen on the images that it is scored on, the more so the more rows there are; so then
    the rows that the paper chose, which are not chosen here. Of a row that two experiments have,
    each seed counts once. Standard errors are Welch's, of two samples with their own variances.
    Empty where a side has no runs. Raises `UserError` for other data or recipes.
    """
    first = experiments[0]
    for other in experiments[1:]:
        for key in ("data", "recipe"):
            if other[key] != first[key]:
                raise UserError(
                    f"{other['experiment']} is of another {key} than {first['experiment']}; "
                    "expected experiments that differ by their rows alone"
                )
    samples = _by_label(row for results in experiments for row in results["rows"])
    focal, balanced = (
        {label: s for label, (kind, s) in samples.items() if kind == side and s.values}
        for side in ("focal", "balanced_cross_entropy")
    )
    if not (focal and balanced):
        return []
    best = [max(side, key=lambda label: side[label].mean) for side in (focal, balanced)]
    counts = f"The best of {len(focal)} rows against the best of {len(balanced)}"
    found = [_compare(counts, best, focal, balanced)]
    if PAPERS_CHOICE[0] in focal and PAPERS_CHOICE[1] in balanced:
        found.append(_compare("The paper's choice", PAPERS_CHOICE, focal, balanced))
    return found


def _by_label(rows: Iterable[Row]) -> dict[str, tuple[str, Sample]]:
    """Loss and sample of each row, the runs of equal rows put together."""
    runs: dict[str, dict[int, Row]] = {}
    kinds: dict[str, str] = {}
    for row in rows:
        model = row["changes"].get("model", {})
        kinds[row["label"]] = model.get("loss", "")
        runs.setdefault(row["label"], {}).update({run["seed"]: run for run in row["runs"]})
    return {
        label: (kinds[label], sample({"runs": list(each.values())})) for label, each in runs.items()
    }


def _compare(
    what: str, labels: Sequence[str], focal: dict[str, Sample], balanced: dict[str, Sample]
) -> Comparison:
    a, b = focal[labels[0]], balanced[labels[1]]
    difference = a.mean - b.mean
    error, freedom = _welch(a, b)
    return Comparison(
        what,
        *labels[:2],
        means=(a.mean, b.mean),
        seeds=(len(a), len(b)),
        difference=difference,
        standard_error=error,
        standard_errors=difference / error if error else None,
        needed=T_95[min(int(freedom), len(T_95)) - 1] if freedom else None,
    )


def _welch(a: Sample, b: Sample) -> tuple[float | None, float | None]:
    """The standard error of the difference of two means, and its degrees of freedom (Welch 1947,
    "The generalization of Student's problem", Biometrika 34)."""
    if a.deviation is None or b.deviation is None:
        return None, None
    u, v = a.deviation**2 / len(a), b.deviation**2 / len(b)
    if u + v == 0:
        return None, None
    return math.sqrt(u + v), (u + v) ** 2 / (u**2 / (len(a) - 1) + v**2 / (len(b) - 1))
