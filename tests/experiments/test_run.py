"""Experiments on tiny scenes: every row with every seed, once; cut, shared, and gone on with."""

from __future__ import annotations

import fcntl
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from short_experiment import RECIPE, SHORT, TINY, Start

import focaldet.cli
from focaldet.data import DetectionDataset
from focaldet.data.folder import open_folder
from focaldet.data.transforms import Transform
from focaldet.errors import UserError
from focaldet.experiments import EXPERIMENTS, Experiment, Row, run, run_experiment
from focaldet.experiments.rows import CE_ALPHA, FL_GAMMA, SPEED_ACCURACY
from focaldet.train.loop import _Loop


def stats(results: dict[str, Any]) -> list[list[dict[str, float]]]:
    return [[run["stats"] for run in row["runs"]] for row in results["rows"]]


def test_every_row_with_every_seed(start: Start, tmp_path: Path) -> None:
    notes: list[str] = []
    results = start(seeds=2, note=notes.append)
    assert [row["label"] for row in results["rows"]] == [row.label for row in SHORT.rows]
    assert [row["paper"] for row in results["rows"]] == [31.1, 34.0]
    assert [[run["seed"] for run in row["runs"]] for row in results["rows"]] == [[0, 1], [0, 1]]
    assert all("AP" in each for row in stats(results) for each in row)
    assert results["data"]["images"] == {"train": 2, "val": 2}
    assert results["recipe"]["train"] == TINY.train  # what the rows change
    data, *runs = notes
    assert data.startswith("2 images with ") and "3 classes: disc, square, triangle" in data
    assert len(runs) == 4 and runs[1] == "short 2/4: FL, gamma 2, alpha 0.25, seed 0"
    kept = {path.name for path in (tmp_path / "out" / "runs").glob("*/*.safetensors")}
    assert kept == {"best.safetensors"}


def test_what_is_done_is_not_done_again(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    first = start()

    def fail(*_: object, **__: object) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr(run, "train", fail)
    assert start() == first
    # Balanced cross entropy with alpha .75 stands in two tables.
    row = next(row for row in CE_ALPHA.rows if row == SHORT.rows[0])
    other = start(Experiment("other", "0", "", (row,)))
    assert other["rows"][0]["runs"] == first["rows"][0]["runs"]
    with pytest.raises(AssertionError, match="trained again"):  # of another recipe
        start(setup=TINY.with_(train={"epochs": 2}))


class Cut(Exception):
    """As a killed process ends."""


def test_an_experiment_that_was_cut_goes_on(
    start: Start, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Within a run, too: the second is cut after its first epoch."""
    setup, publish, epochs = TINY.with_(train={"epochs": 2}), _Loop._publish, []

    def then_cut(*given: Any) -> None:
        publish(*given)
        epochs.append(given)
        if len(epochs) == 3:
            raise Cut

    with monkeypatch.context() as patch:
        patch.setattr(_Loop, "_publish", then_cut)
        with pytest.raises(Cut):
            start(setup=setup)
    so_far = json.loads((tmp_path / "out" / "short" / "results.json").read_text())
    assert [len(row["runs"]) for row in so_far["rows"]] == [1, 0]

    notes: list[str] = []
    resumed = start(setup=setup, note=notes.append)
    assert len(notes) == 2 and notes[1].startswith("short 2/2")
    assert stats(resumed) == stats(start(setup=setup, out="at once"))
    assert resumed["rows"][1]["runs"][0]["minutes"] is None  # nobody knows


def test_a_run_of_another_process_is_left_alone(start: Start, tmp_path: Path) -> None:
    start()
    first, second = sorted((tmp_path / "out" / "runs").iterdir())
    (first / run.DONE).unlink()
    with open(first / "lock") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        results = start()
    assert sorted(len(row["runs"]) for row in results["rows"]) == [0, 1]
    assert not (first / run.DONE).exists() and (second / run.DONE).exists()


def test_inference_is_timed_where_the_table_asks(start: Start) -> None:
    row = SPEED_ACCURACY.rows[0]
    small = {"model": {**row.changes["model"], "backbone": "resnet18", "min_size": 64}}
    small["model"]["max_size"] = 64
    timed = Experiment("timed", "1e", "", (type(row)("64 px", small),), timed=True)
    (only,) = start(timed)["rows"]
    assert 0 < only["runs"][0]["milliseconds"] < 10_000


@pytest.mark.parametrize("experiment", EXPERIMENTS.values(), ids=EXPERIMENTS)
def test_the_rows_are_recipes(experiment: Experiment) -> None:
    """Values that the model takes, under labels that differ."""
    labels = [row.label for row in experiment.rows]
    assert len(set(labels)) == len(labels)
    for row in experiment.rows:
        changed = TINY.with_(**row.changes)
        if not experiment.timed:  # those are large
            changed.make_model(2)
        changed.train_transform()


def test_anchors_of_a_row() -> None:
    of = {row.label: TINY.with_(**row.changes) for row in EXPERIMENTS["anchors"].rows}
    model = of["4 scales, 3 ratios"].make_model(1)
    assert model.anchor_grid.per_position == 12
    one = of["1 scales, 1 ratios"].make_model(1).anchor_grid
    assert one.cell_anchors[0] == ((-4, -4, 4, 4),)  # sizes are the recipe's


def test_anchors_of_a_row_from_p2_on() -> None:
    setup = TINY.with_(model={"finest_level": 2})
    for row in EXPERIMENTS["anchors"].rows[:2]:
        grid = setup.with_(**row.changes).make_model(1).anchor_grid
        assert grid.strides == (4, 8, 16, 32, 64)


def test_what_cannot_be_run(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One line each, before anything is trained."""
    recipe = tmp_path / "tiny.toml"
    recipe.write_text(RECIPE)
    content = json.loads((data / "instances.json").read_text())

    def refused(folder: Path, *more: str, name: str = "fl-gamma") -> str:
        words = ["experiment", name, "--data", str(folder), "--out", str(tmp_path / "out")]
        words += ["--recipe", str(recipe), "--device", "cpu", *more]
        assert focaldet.cli.main(words) == 2
        err = capsys.readouterr().err
        assert err.startswith("focaldet: error: ") and err.count("\n") == 1
        return err

    def variant(name: str, **splits: dict[str, Any]) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        (folder / "images").symlink_to(data / "images")
        for split, value in splits.items():
            (folder / f"instances_{split}.json").write_text(json.dumps(value))
        return folder

    assert "no split 'val': it has train" in refused(variant("no-val", train=content))
    empty = content | {"annotations": []}
    assert "holds no boxes" in refused(variant("empty", train=empty, val=empty))
    nothing = content | {"annotations": [], "images": []}
    assert "holds no images" in refused(variant("nothing", train=content, val=nothing))
    one = content | {"categories": content["categories"][:1]}
    one["annotations"] = [a for a in one["annotations"] if a["category_id"] == 1]
    differ = refused(variant("other-classes", train=content, val=one), "--rows", "CE*")
    assert "differ in their categories" in differ
    assert "no such row; expected of: CE, alpha 0.75; " in refused(data, "--rows", "gamma")
    assert "did you mean ohem?" in refused(data, name="ohm")
    recipe.write_text(RECIPE.replace("head_depth", "head_dept"))
    assert "model.head_dept is unknown" in refused(data)


def test_one_class_is_said_and_run(start: Start, data: Path, tmp_path: Path) -> None:
    content = json.loads((data / "instances.json").read_text())
    for entry in content["annotations"]:
        entry["category_id"] = 1
    content["categories"] = content["categories"][:1]
    for split in ("train", "val"):
        (tmp_path / f"instances_{split}.json").write_text(json.dumps(content))
    (tmp_path / "images").symlink_to(data / "images")
    notes: list[str] = []

    def open_split(split: str, transform: Transform) -> DetectionDataset:
        return open_folder(tmp_path, split, transform=transform)

    file = run_experiment(SHORT, TINY, open_split, tmp_path / "out", [0], note=notes.append)
    assert "1 class: disc" in notes[0]
    assert all(row["runs"] for row in json.loads(file.read_text())["rows"])


def test_a_run_that_diverges_is_a_result(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.set_num_threads(1)
    bad = {"lr": 1e30, "clip_norm": 0.0, "max_bad_steps": 1, "epochs": 4}
    rows = Row("too fast", {"train": bad}), SHORT.rows[1]
    monkeypatch.setitem(EXPERIMENTS, "fl-gamma", replace(FL_GAMMA, rows=rows))
    recipe = tmp_path / "tiny.toml"
    recipe.write_text(RECIPE)
    words = ["experiment", "fl-gamma", "--data", data, "--out", tmp_path / "out", "--seeds", "1"]
    command = [*map(str, words), "--recipe", str(recipe), "--device", "cpu"]
    assert focaldet.cli.main(command) == 0
    out = capsys.readouterr().out
    assert "training diverged: " in out and "| too fast | open |  |  | seed 0 diverged |" in out
    first, second = json.loads((tmp_path / "out/fl-gamma/results.json").read_text())["rows"]
    assert first["runs"] == [] and first["diverged"][0]["seed"] == 0
    assert "training diverged: " in first["diverged"][0]["diverged"]
    assert len(second["runs"]) == 1 and second["diverged"] == []

    def fail(*_: object, **__: object) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr(run, "train", fail)
    assert focaldet.cli.main(command) == 0
    assert "seed 0 diverged" in capsys.readouterr().out


def test_a_run_that_fails_otherwise_is_named(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise UserError("no space left")

    monkeypatch.setattr(run, "train", full)
    with pytest.raises(UserError, match=r"ce-alpha-0.75-seed0-\w+: no space left"):
        start()
