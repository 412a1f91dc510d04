"""Experiments whose runs begin with the weights of classifiers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from short_experiment import FROZEN, RECIPE, Start

import focaldet.cli
from focaldet.checkpoint import load_checkpoint
from focaldet.errors import UserError
from focaldet.experiments import Experiment, Row, report, run
from focaldet.models import RetinaNet
from focaldet.models.resnet import ResNet


def test_a_recipe_that_freezes_norms_wants_weights(start: Start) -> None:
    expected = "expected --backbone-weights, or a recipe of your own with base = 'tiny' and another"
    with pytest.raises(UserError, match=expected):
        start(setup=FROZEN)


@pytest.fixture
def classifiers(tmp_path: Path) -> list[Path]:
    """Files of weights of two ResNets, told by their statistics."""
    files = []
    for depth in (18, 34):
        body = ResNet(f"resnet{depth}", width=16)
        body.bn1.running_mean += depth
        files.append(tmp_path / f"resnet{depth}.pth")
        torch.save(body.state_dict(), files[-1])
    return files


def test_runs_begin_with_the_weights_of_their_backbone(
    start: Start, classifiers: list[Path], tmp_path: Path
) -> None:
    rows = [Row(f"R{depth}", {"model": {"backbone": f"resnet{depth}"}}) for depth in (34, 18)]
    results = start(Experiment("both", "0", "", tuple(rows)), setup=FROZEN, weights=classifiers)
    for row, depth in zip(results["rows"], (34, 18), strict=True):
        (run,) = row["runs"]
        assert run["backbone_weights"]["file"] == f"resnet{depth}.pth"
        (file,) = tmp_path.glob(f"out/runs/r{depth}-*/best.safetensors")
        weights, _, _ = load_checkpoint(file)
        assert (weights["backbone.body.bn1.running_mean"] == depth).all()
    assert "; from resnet18.pth and resnet34.pth; cpu, 1 thread" in report.table(results)


def test_other_weights_make_another_run(
    start: Start,
    classifiers: list[Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first = start(weights=classifiers)
    assert start(weights=classifiers[:1]) == first  # the same file fits
    trained = []

    def note_and_fail(model: RetinaNet, *_: object, **__: object) -> None:
        trained.append(model.backbone.body.bn1.running_mean[0].item())
        raise UserError("enough")

    monkeypatch.setattr(run, "train", note_and_fail)
    with pytest.raises(UserError, match="enough"):
        start()
    weights = torch.load(classifiers[0])
    weights["bn1.running_mean"] += 1
    torch.save(weights, classifiers[0])
    with pytest.raises(UserError, match="enough"):
        start(weights=classifiers[:1])
    assert trained == [0, 19]


def test_weights_that_fit_no_row(start: Start, classifiers: list[Path], tmp_path: Path) -> None:
    """Said before anything is trained, of each file."""
    missing = tmp_path / "none.pth"
    with pytest.raises(UserError, match=r"resnet34.pth: the nearest ResNet is resnet34.*; .*none"):
        start(weights=[classifiers[1], missing])
    assert not list(tmp_path.glob("out/runs/*"))


def test_weights_are_named_to_the_command(
    data: Path, classifiers: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tmp_path / "tiny.toml"
    recipe.write_text(RECIPE.replace("[anchors]", 'norm = "frozen"\n[anchors]'))
    words = ["experiment", "fl-gamma", "--data", data, "--out", tmp_path / "out", "--seeds", 1]
    words += ["--rows", "CE*", "--recipe", recipe, "--device", "cpu"]
    words += ["--backbone-weights", *classifiers]
    assert focaldet.cli.main([str(word) for word in words]) == 0
    assert "; from resnet18.pth; cpu" in capsys.readouterr().out
