"""`focaldet recipes`, and what `focaldet train` makes of a recipe and the arguments beside it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from focaldet.cli import main, make_parser
from focaldet.cli.train import configuration
from focaldet.recipes import Configuration, find, load, names

ANCHORS = [16, 32, 64, 128, 256]


def setup(*words: str) -> Configuration:
    return configuration(make_parser().parse_args(["train", "--out", "run", *words]))


def test_the_list_has_every_recipe_and_what_was_published(capsys: pytest.CaptureFixture) -> None:
    assert main(["recipes"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == names()
    assert all(load(name).about in line for name, line in zip(names(), lines, strict=True))
    (paper,) = (line for line in lines if line.startswith("paper-r50-600 "))
    assert paper.endswith("published, not run here: AP 0.343 on COCO test-dev")


def test_one_is_printed_as_its_file(capsys: pytest.CaptureFixture, tmp_path: Path) -> None:
    for name in ("modern", "paper-r101-500"):
        assert main(["recipes", name]) == 0
        assert capsys.readouterr().out == find(name).read_text()
    own = tmp_path / "own.toml"
    own.write_text("[model]\nalhpa = 1")
    for name, message in (("modrn", "did you mean modern?"), (str(own), "did you mean alpha?")):
        assert main(["recipes", name]) == 2
        line = capsys.readouterr().err
        assert message in line and line.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "table", "expected"),
    [
        ("", "model", {"backbone": "resnet18", "min_size": 320, "max_size": 320}),
        ("", "anchors", {"convention": "torchvision", "sizes": ANCHORS}),
        ("", "train", {}),
        ("--epochs 3 --lr 0.1 --seed 0", "train", {"epochs": 3, "lr": 0.1, "seed": 0}),
        ("--sync-norm --ema 0", "train", {"sync_norm": True, "ema": 0.0}),
        ("--evaluator ultrafast", "train", {"evaluator": "ultrafast"}),
        ("--flip none", "data", {"flip": "none"}),
        (
            "--recipe tiny --anchor-size 16",
            "anchors",
            {"convention": "torchvision", "sizes": ANCHORS},
        ),
        (
            "--alpha 0 --gamma 0 --size 64 --norm group",
            "model",
            {
                **{"backbone": "resnet18", "min_size": 64, "max_size": 64},
                **{"alpha": 0.0, "gamma": 0.0, "norm": "group"},
            },
        ),
        ("--recipe modern", "train", {"epochs": 24, "ema": 0.999}),
        ("--recipe modern --ema 0", "train", {"epochs": 24, "ema": 0.0}),
        # Scales are of any size; sizes and windows are not.
        ("--recipe modern --size 640", "data", dict(load("modern").data)),
        ("--recipe small-objects --size 640", "data", {"flip": "both"}),
        ("--recipe small-objects", "data", {"flip": "both", "crop": 320}),
        ("--recipe detectron2-r50-1x --size 640", "data", {"flip": "horizontal"}),
        (
            "--recipe torchvision-r50-v2 --no-sync-norm",
            "train",
            {**load("torchvision-r50-v2").train, "sync_norm": False},
        ),
        ("--recipe paper-r50-600 --flip both", "data", {"flip": "both"}),
        (
            "--recipe paper-r50-600 --anchor-size 16",
            "anchors",
            {"convention": "paper", "sizes": ANCHORS},
        ),
        ("--recipe paper-r50-600 --lr 0.02", "train", {**load("paper-r50-600").train, "lr": 0.02}),
    ],
)
def test_arguments_change_a_recipe(words: str, table: str, expected: dict[str, Any]) -> None:
    assert getattr(setup(*words.split()), table) == expected


def test_a_file_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "cells.toml"
    path.write_text('base = "modern"\n[train]\nepochs = 40\n')
    own = setup("--recipe", str(path), "--batch-size", "4")
    assert own.train == {"epochs": 40, "ema": 0.999, "batch_size": 4}


def test_presets_change_a_recipe() -> None:
    assert setup("--preset", "v2").model["head_norm"] == "group"
    plain = setup("--recipe", "modern", "--preset", "v1").model_arguments()
    assert (plain["head_norm"], plain["box_loss"], plain["p6_from"]) == (None, "smooth_l1", "p5")


def test_the_help_tells_the_values_of_the_default_recipe(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    for option, value in (
        ("--size", "320"),
        ("--anchor-size", "16"),
        ("--epochs", "12"),
        ("--backbone", "resnet18"),
        ("--flip", "both"),
        ("--precision", "float32"),
        ("--evaluator", "pycocotools"),
    ):
        assert re.search(rf" {option} [^()]*(\([^()]*\)[^()]*)?\(small: {value}\)", text), option
    assert "None" not in text
