"""Figures: what they draw against plain formulas and tables, and files of them by the command."""

from __future__ import annotations

import importlib.util
import json
import math
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from tiny_runs import tiny_model

import focaldet.cli
from focaldet.checkpoint import Description, save_checkpoint
from focaldet.data import generate_scenes
from focaldet.data.scenes import CLASSES
from focaldet.experiments import EXPERIMENTS, paper

pytest.importorskip("matplotlib", reason="matplotlib is not installed")

from focaldet.experiments.figures import loss, rows, speed  # noqa: E402

CE, FL = "CE, alpha 0.75", "FL, gamma 2, alpha 0.25"


def results(name: str, **more: float) -> dict[str, Any]:
    """Two seeds of every row but the last."""
    about = {"minutes": None, "device": "cpu", "threads": 1, "torch": "2.10", **more}
    runs = [{"seed": seed, "stats": {"AP": 0.3 + seed / 10}, **about} for seed in range(2)]
    made = [
        {"label": row.label, "changes": row.changes, "paper": row.paper, "runs": runs}
        for row in EXPERIMENTS[name].rows
    ]
    made[-1] = made[-1] | {"runs": []}
    data = {"images": {"train": 3, "val": 2}, "digest": "0"}
    about = {"experiment": name, "table": EXPERIMENTS[name].table, "recipe": {"name": "tiny"}}
    return about | {"data": data, "rows": made}


def points(axes: Any) -> set[tuple[float, float]]:
    return {(float(x), float(y)) for line in axes.lines for x, y in line.get_xydata()}


@pytest.mark.parametrize("gamma", loss.GAMMAS)
def test_figure_1_is_the_papers_formula(gamma: float) -> None:
    p = torch.linspace(0.01, 0.99, 99, dtype=torch.float64)
    expected = [-((1 - x) ** gamma) * math.log(x) for x in p.tolist()]
    assert loss.losses(gamma, p).tolist() == pytest.approx(expected, rel=1e-12)


def test_figure_1_has_a_line_for_each_gamma() -> None:
    (axes,) = loss.figure().axes
    assert len(axes.lines) == len(loss.GAMMAS)
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert labels[0] == "γ = 0 (cross entropy)" and labels[-1] == "γ = 5"


def test_figure_2_has_every_published_point() -> None:
    (axes,) = speed.figure().axes
    drawn = points(axes)
    for point in (*paper.FIGURE_2.values(), *paper.SPEED_ACCURACY.values()):
        assert (point.milliseconds, point.ap) in drawn
    at_the_edge = {y for x, y in drawn if x == 1}
    assert at_the_edge == {34.7, 34.9, 36.8, 39.1, 40.8}  # of Table 2, without a time


def test_figure_2_keeps_what_was_measured_apart() -> None:
    published, measured = speed.figure(results("speed-accuracy", milliseconds=7.0)).axes
    assert points(published) == points(speed.figure().axes[0])
    assert {(7.0, 30.0), (7.0, 40.0), (7.0, 35.0)} == {
        (x, round(y, 9)) for x, y in points(measured)
    }
    assert not published.get_shared_y_axes().joined(published, measured)


def test_the_rows_of_an_experiment() -> None:
    """Ours and the paper's have the same rows, and an axis each."""
    ours, papers = rows.figure(results("fl-gamma")).axes
    labels = [row.label for row in EXPERIMENTS["fl-gamma"].rows]
    assert [text.get_text() for text in ours.get_yticklabels()] == labels
    assert points(papers) == {(row.paper, y) for y, row in enumerate(EXPERIMENTS["fl-gamma"].rows)}
    seeds = {(round(x, 9), y) for x, y in points(ours)}
    assert {(30.0, 0), (40.0, 0), (35.0, 0)} <= seeds
    assert not {x for x, y in seeds if y == len(labels) - 1}
    assert [text.get_text() for text in ours.texts] == ["open"]
    assert ours.get_shared_y_axes().joined(ours, papers)
    assert not ours.get_shared_x_axes().joined(ours, papers)


# The command -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with scenes and weights."""
    folder = tmp_path_factory.mktemp("trained")
    generate_scenes(folder, images=2, seed=1, size=64, objects=(3, 5))
    model = tiny_model()
    for name, classes in (("best", CLASSES), ("other", ("a", "b", "c"))):
        described = Description(model.config, list(classes), [1, 2, 3])
        save_checkpoint(folder / f"{name}.safetensors", model.state_dict(), described)
    (folder / "results.json").write_text(json.dumps(results("speed-accuracy", milliseconds=7.0)))
    return folder


def figure_4(folder: Path, out: Path, *more: str, weights: str = "best") -> list[str]:
    data = ["--data", str(folder / "instances.json"), "--images", str(folder / "images")]
    run = ["--weights", str(folder / f"{weights}.safetensors"), "--device", "cpu"]
    return ["figure", "4", *data, *run, "--workers", "0", "--out", str(out), *more]


def test_files_are_whole_and_the_same_each_time(trained: Path, tmp_path: Path) -> None:
    words = {
        "1.svg": ["1"],
        "again.svg": ["1"],
        "1.png": ["1"],
        "2.svg": ["2", "--results", str(trained / "results.json")],
    }
    for name, each in words.items():
        assert focaldet.cli.main(["figure", *each, "--out", str(tmp_path / name)]) == 0
    assert {path.name for path in tmp_path.iterdir()} == words.keys()  # nothing beside them
    assert (tmp_path / "1.svg").read_bytes() == (tmp_path / "again.svg").read_bytes()
    for name in ("1.svg", "2.svg"):
        assert len(list(ElementTree.parse(tmp_path / name).iter())) > 50
    assert len(Image.open(tmp_path / "1.png").convert("RGB").getcolors(1 << 20)) > 50


def test_figure_4_and_its_numbers(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, file = tmp_path / "4.svg", tmp_path / "4.json"
    words = figure_4(trained, out, "--json", str(file), "--gammas", "0", "2")
    assert focaldet.cli.main(words) == 0
    numbers = json.loads(file.read_text())
    assert [row["gamma"] for row in numbers["gammas"]] == [0, 2] and numbers["images"] == 2
    share = numbers["gammas"][1]["background"]["share_of_hardest"]["0.01"]
    assert f"gamma 2, background: hardest 1% {share:.1%}, " in capsys.readouterr().out
    assert len(list(ElementTree.parse(out).iter())) > 50


def test_what_is_refused(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    """One line each, and nothing written."""

    def refused(*words: str) -> str:
        assert focaldet.cli.main(list(words)) == 2
        err = capsys.readouterr().err
        assert err.startswith("focaldet: error: ") and err.count("\n") == 1
        return err

    there, out = tmp_path / "there.svg", str(tmp_path / "new.svg")
    there.write_text("mine")
    assert "one of 1, 2, 4" in refused("figure")
    assert "ends with .svg or .png" in refused("figure", "1", "--out", str(tmp_path / "x.pdf"))
    assert "is no folder" in refused("figure", "1", "--out", str(tmp_path / "no" / "x.svg"))
    assert "exists already" in refused("figure", "1", "--out", str(there))
    assert "exists already" in refused(*figure_4(trained, Path(out), "--json", str(there)))
    assert "classes a, b, c; the data set has disc" in refused(
        *figure_4(trained, Path(out), weights="other")
    )
    empty = json.loads((trained / "instances.json").read_text()) | {"annotations": []}
    (tmp_path / "empty.json").write_text(json.dumps(empty))
    nothing = ["--data", str(tmp_path / "empty.json")]
    assert "holds no boxes" in refused(*figure_4(trained, Path(out), *nothing))
    (tmp_path / "bad.json").write_text("{}")
    bad = ["--results", str(tmp_path / "bad.json"), "--out", out]
    assert "no results of an experiment" in refused("figure", "2", *bad)
    (tmp_path / "untimed.json").write_text(json.dumps(results("fl-gamma")))
    untimed = ["--results", str(tmp_path / "untimed.json"), "--out", out]
    assert "no times of inference" in refused("figure", "2", *untimed)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert 'pip install "focaldet[plots]"' in refused("figure", "1", "--out", out)
    assert there.read_text() == "mine" and not Path(out).exists()


def test_real_blood_cells(data_dir: Path, tmp_path: Path) -> None:
    """A random model has equal losses everywhere but by chance: no gamma concentrates much."""
    folder, out = data_dir / "bccd", tmp_path / "4.svg"
    model = tiny_model()
    content = json.loads((folder / "instances_val.json").read_text())
    names = [c["name"] for c in sorted(content["categories"], key=lambda c: c["id"])]
    described = Description(model.config, names[::-1], [3, 2, 1])
    save_checkpoint(tmp_path / "best.safetensors", model.state_dict(), described)
    words = ["figure", "4", "--weights", str(tmp_path / "best.safetensors"), "--data", str(folder)]
    words += ["--limit", "3", "--workers", "0", "--device", "cpu", "--out", str(out)]
    assert focaldet.cli.main([*words, "--json", str(tmp_path / "4.json")]) == 0
    numbers = json.loads((tmp_path / "4.json").read_text())
    assert numbers["images"] == 3 and numbers["anchors"]["foreground"] > 50
    for row in numbers["gammas"]:
        assert row["background"]["share_of_hardest"]["0.1"] == pytest.approx(0.1, abs=0.15)
