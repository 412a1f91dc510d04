"""An experiment's results beside the paper's: a table in Markdown, and a plot."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from pathlib import Path

from ..errors import UserError
from ..files import write_atomically
from .comparison import RIVALS, comparisons, same_setup
from .figures import check_file
from .results import (
    RESULTS,
    Results,
    Row,
    described,
    diverged,
    milliseconds,
    read_results,
    sample,
)

# The rows that others are compared with; elsewhere the first of the table.
BASELINES = {
    "ce-alpha": "CE, alpha 0.5",  # plain cross entropy, halved
    "ohem": "FL, gamma 2, alpha 0.25",
}
TABLE, PLOT = "table.md", "plot.svg"


def write_report(file: Path, note: Callable[[str], None] = print) -> str:
    """Writes the text and the plot of a results.json beside it, as TABLE and PLOT; returns the
    text. Without matplotlib that is noted, and there is no plot."""
    results = read_results(file)
    sweep = sweep_for(results, lambda name: file.parent.parent / name / RESULTS)
    text = report(results, sweep)
    write_atomically(file.with_name(TABLE), f"{text}\n".encode())
    try:
        plot = check_file(file.with_name(PLOT))
    except UserError as error:
        note(f"no plot: {error}")
    else:
        draw(results, plot)
    return text


def sweep_for(results: Results, file_of: Callable[[str], Path]) -> Results | None:
    """What `comparisons` may take in: another experiment's results, if they are there, and of the
    same setup. `file_of`: where those of an experiment are."""
    rival = RIVALS.get(results["experiment"])
    if rival is None or rival.sweep is None or not file_of(rival.sweep).exists():
        return None
    sweep = read_results(file_of(rival.sweep))
    return sweep if same_setup(results, sweep) else None


def report(results: Results, sweep: Results | None = None) -> str:
    """The table, and a sentence for each of `comparisons`."""
    return "\n\n".join([table(results), *(c.sentence for c in comparisons(results, sweep))])


def draw(results: Results, file: Path) -> None:
    """The rows; where the time of inference was measured, Figure 2."""
    from .figures import rows, speed, style  # matplotlib, which is optional

    figure = speed.figure if _timed(results) else rows.figure
    style.write(file, lambda: figure(results))


def table(results: Results) -> str:
    """A row for each of the experiment's: AP and AP50 (mean over the seeds and their standard
    deviation, in percent), each seed's AP, the paper's AP; beside both, the difference to the
    baseline's row. A row without runs is open; runs that diverged are named by their seed."""
    timed, baseline = _timed(results), _baseline(results)
    columns = ("AP", "to baseline", "AP50", *["ms"] * timed, "AP by seed", "paper's", "to baseline")
    lines = [
        f"{described(results)}{_conditions(results)}. AP in percent, mean over seeds ± standard "
        f"deviation; baseline: {baseline['label']}.",
        "",
        f"| | {' | '.join(columns)} |",
        f"|---|{'---:|' * len(columns)}",
    ]
    for row in results["rows"]:
        ap, base = sample(row), sample(baseline)
        other = row is not baseline
        papers = None not in (row["paper"], baseline["paper"])
        cells = [
            ap.text,
            f"{ap.mean - base.mean:+.1f}" if other and ap.values and base.values else "",
            sample(row, "AP50").text if ap.values else "",
            *[milliseconds(row).text] * timed,
            ", ".join(
                [f"{value:.1f}" for value in ap.values]
                + [f"seed {seed} diverged" for seed in diverged(row)]
            ),
            "" if row["paper"] is None else f"{row['paper']:.1f}",
            f"{row['paper'] - baseline['paper']:+.1f}" if other and papers else "",
        ]
        lines.append(f"| {row['label']} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _timed(results: Results) -> bool:
    return any(milliseconds(row).values for row in results["rows"])


def _baseline(results: Results) -> Row:
    rows: Sequence[Row] = results["rows"]
    wanted = BASELINES.get(results["experiment"])
    return next((row for row in rows if row["label"] == wanted), rows[0])


def _conditions(results: Results) -> str:
    """Of the runs that are done: from which weights, where, and how long one took that was not
    interrupted."""
    runs = [run for row in results["rows"] for run in row["runs"]]
    where = {
        f"{run['device']}, {run['threads']} thread{'s' * (run['threads'] != 1)}, torch "
        f"{run['torch']}"
        for run in runs
    }
    minutes = [run["minutes"] for run in runs if run["minutes"] is not None]
    time = [f"{statistics.median(minutes):.1f} min a run"] if minutes else []
    files = sorted({run["backbone_weights"]["file"] for run in runs if "backbone_weights" in run})
    begun = [f"from {' and '.join(files)}"] if files else []
    return "".join(f"; {part}" for part in [*begun, *sorted(where), *time])
