"""Tables and comparisons of made-up results, against numbers worked out by hand."""

from __future__ import annotations

import importlib.util
import json
import statistics
from pathlib import Path
from typing import Any

import pytest

from focaldet.errors import UserError
from focaldet.experiments import EXPERIMENTS, paper, report, write_report
from focaldet.experiments.comparison import FOCAL, RIVALS, T_95, comparisons
from focaldet.experiments.results import Sample, read_results, sample

CE, FL = "CE, alpha 0.75", "FL, gamma 2, alpha 0.25"


def made_up(name: str, aps: dict[str, list[float]], **changes: Any) -> dict[str, Any]:
    """A results.json: of each labelled row an AP for every seed, and of the others nothing."""

    def run(seed: int, ap: float) -> dict[str, Any]:
        about = {"minutes": 1.5, "device": "cpu", "threads": 1, "torch": "2.10"}
        return {"seed": seed, "stats": {"AP": ap, "AP50": 2 * ap if ap > 0 else ap}, **about}

    rows = [
        {
            "label": row.label,
            "changes": {table: dict(values) for table, values in row.changes.items()},
            "paper": row.paper,
            "runs": [run(seed, ap) for seed, ap in enumerate(aps.get(row.label, []))],
        }
        for row in EXPERIMENTS[name].rows
    ]
    assert aps.keys() <= {row["label"] for row in rows}
    about = {"experiment": name, "table": EXPERIMENTS[name].table, "recipe": {"name": "tiny"}}
    data = {"images": {"train": 3, "val": 2}, "digest": "0" * 12}
    return about | {"data": data, "rows": rows} | changes


def cells(text: str, label: str) -> list[str]:
    (line,) = [line for line in text.splitlines() if line.startswith(f"| {label} |")]
    return [cell.strip() for cell in line.strip("|").split("|")][1:]


def test_a_table_beside_the_papers() -> None:
    text = report.table(made_up("fl-gamma", {CE: [0.30, 0.31, 0.35], FL: [0.40]}))
    assert "3 train, 2 val images, recipe tiny, 4 runs; cpu, 1 thread, torch 2.10; 1.5 min" in text
    assert f"baseline: {CE}." in text
    deviation = statistics.stdev([30, 31, 35])
    mean = f"32.0 ± {deviation:.1f}"
    assert cells(text, CE) == [
        mean, "", f"64.0 ± {2 * deviation:.1f}", "30.0, 31.0, 35.0", "31.1", ""
    ]  # fmt: skip
    assert cells(text, FL) == ["40.0", "+8.0", "80.0", "40.0", "34.0", "+2.9"]
    assert cells(text, "FL, gamma 5, alpha 0.25") == ["open", "", "", "", "32.2", "+1.1"]


def test_a_score_of_nothing_is_no_score() -> None:
    """-1, which pycocotools gives, is not averaged."""
    results = made_up("fl-gamma", {CE: [-1.0, 0.3], FL: [-1.0]})
    assert sample(results["rows"][0]).values == (30.0,)
    text = report.table(results)
    assert cells(text, CE)[0] == "30.0" and cells(text, FL)[:2] == ["open", ""]


def test_the_time_of_inference_has_a_column() -> None:
    label = "resnet50, 400 px"
    results = made_up("speed-accuracy", {label: [0.3, 0.3]})
    for milliseconds, run in zip((10.0, 12.0), results["rows"][0]["runs"], strict=True):
        run["milliseconds"] = milliseconds
    assert cells(report.table(results), label)[3] == "11.0 ± 1.4"
    assert cells(report.table(results), "resnet50, 500 px")[3] == "open"


def test_labels_that_are_looked_up_are_those_of_rows() -> None:
    def labels(name: str) -> set[str]:
        return {row.label for row in EXPERIMENTS[name].rows}

    assert all(label in labels(name) for name, label in report.BASELINES.items())
    for name, rival in RIVALS.items():
        assert {FOCAL, rival.choice} <= labels(name) | labels(rival.sweep or name)
    best = max(paper.FL_GAMMA, key=lambda key: paper.FL_GAMMA[key].ap)
    assert f"FL, gamma {best[0]:g}, alpha {best[1]:g}" == FOCAL
    assert f"CE, alpha {max(paper.CE_ALPHA, key=lambda a: paper.CE_ALPHA[a].ap)}" == CE


def test_focal_loss_wins() -> None:
    a, b = [0.50, 0.51, 0.52], [0.40, 0.42, 0.44]
    best, papers = comparisons(made_up("fl-gamma", {FL: a, CE: b}))
    u, v = statistics.variance(a) / 3, statistics.variance(b) / 3
    assert best.difference == pytest.approx(9.0)
    assert best.standard_error == pytest.approx(100 * (u + v) ** 0.5)
    assert best.standard_errors == pytest.approx(0.09 / (u + v) ** 0.5)
    freedom = (u + v) ** 2 / (u**2 / 2 + v**2 / 2)  # 2.9
    assert best.needed == T_95[int(freedom) - 1] == 4.30
    assert "focal loss wins, +9.0 AP or +7.0 standard errors with 3 and 3 seeds" in best.sentence
    assert papers.what == "The paper's choice" and papers.difference == best.difference


def test_a_row_of_which_a_run_diverged_is_shown_and_not_compared() -> None:
    results = made_up("fl-gamma", {FL: [0.50, 0.51], CE: [0.40, 0.42]})
    results["rows"][0]["diverged"] = [{"seed": 2, "diverged": "training diverged"}]
    assert results["rows"][0]["label"] == CE
    assert cells(report.table(results), CE)[3] == "40.0, 42.0, seed 2 diverged"
    assert comparisons(results) == []


def test_what_is_within_the_spread_is_no_win() -> None:
    (best, _) = comparisons(made_up("fl-gamma", {FL: [0.50, 0.54], CE: [0.49, 0.53]}))
    assert "focal loss is ahead, not beyond doubt, +1.0 AP or +0.4 standard" in best.sentence
    assert best.needed == T_95[1]  # equal variances: n + m - 2
    (best, _) = comparisons(made_up("fl-gamma", {FL: [0.10, 0.11], CE: [0.49, 0.50]}))
    assert "focal loss loses, -39.0 AP or -55.2 standard" in best.sentence


@pytest.mark.parametrize("aps", [([0.5], [0.4, 0.41]), ([0.5, 0.5], [0.4, 0.4])])
def test_without_a_spread_nothing_is_decided(aps: tuple[list[float], list[float]]) -> None:
    """One seed, and seeds that all got the same."""
    (best, _) = comparisons(made_up("fl-gamma", dict(zip((FL, CE), aps, strict=True))))
    assert best.standard_error is best.standard_errors is best.needed is None
    assert "no spread, nothing decided" in best.sentence


def test_the_best_rows_have_several_seeds_where_any_has() -> None:
    aps = {FL: [0.5, 0.51], "FL, gamma 1, alpha 0.25": [0.6], CE: [0.4, 0.41]}
    best, _ = comparisons(made_up("fl-gamma", aps))
    assert (best.focal, best.rival) == (FL, CE) and "best of 2 of focal loss" in best.what


def test_a_sweep_adds_rows() -> None:
    other = "CE, alpha 0.9"
    results = made_up("fl-gamma", {FL: [0.5, 0.51], CE: [0.4, 0.41]})
    sweep = made_up("ce-alpha", {CE: [0.4, 0.41], other: [0.6, 0.62]})
    best, papers = comparisons(results, sweep)
    assert best.rival == other and "of 2 of balanced cross entropy" in best.what
    assert (papers.rival, papers.seeds) == (CE, (2, 2))  # its seeds are not counted twice
    with pytest.raises(UserError, match="ce-alpha and fl-gamma: of different data or recipes"):
        comparisons(results, sweep | {"recipe": {"name": "other"}})


def test_mining_is_compared_with_its_own_rows() -> None:
    mined = "OHEM 1:3, 256 at 0.5"
    (best,) = comparisons(made_up("ohem", {FL: [0.5, 0.51], mined: [0.4, 0.41]}))
    assert best.rival == mined and "1 of OHEM" in best.what
    assert comparisons(made_up("ohem", {FL: [0.5]})) == []
    assert comparisons(made_up("anchors", {})) == comparisons(made_up("ce-alpha", {})) == []


def test_a_sample_by_hand() -> None:
    assert Sample((1.0, 2.0, 3.0)).mean == 2 and Sample((1.0, 2.0, 3.0)).deviation == 1
    assert Sample((1.0,)).deviation is None and Sample(()).text == "open"


def test_files_beside_the_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    results = {
        "fl-gamma": made_up("fl-gamma", {FL: [0.5, 0.51]}),
        "ce-alpha": made_up("ce-alpha", {CE: [0.4, 0.41]}),
    }
    for name, content in results.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "results.json").write_text(json.dumps(content))
    file, notes = tmp_path / "fl-gamma" / "results.json", []
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    text = write_report(file, notes.append)
    assert "focal loss wins" in text  # over the other experiment's rows
    assert (file.parent / "table.md").read_text() == f"{text}\n"
    assert notes == ['no plot: figures need matplotlib: pip install "focaldet[plots]"']
    results["ce-alpha"]["data"]["digest"] = "other"
    (tmp_path / "ce-alpha" / "results.json").write_text(json.dumps(results["ce-alpha"]))
    assert "focal loss" not in write_report(file, notes.append)


def test_a_file_that_holds_no_results(tmp_path: Path) -> None:
    file = tmp_path / "results.json"
    for content in ([], {"rows": []}, made_up("ohem", {FL: [0.5]}) | {"rows": [{"label": "x"}]}):
        file.write_text(json.dumps(content))
        with pytest.raises(UserError, match="no results of an experiment"):
            read_results(file)
