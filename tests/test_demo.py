"""The demo from end to end, with fewer scenes and epochs than a user gets."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from focaldet.checkpoint import load_model
from focaldet.demo import PICTURES, SIZE, demo
from focaldet.errors import UserError
from focaldet.train import BEST


def test_demo_leaves_what_it_says(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    out = tmp_path / "demo"
    scores = demo(out, seed=3, train_images=12, val_images=3, epochs=1)

    report = json.loads((out / "metrics.json").read_text())
    assert report["stats"] == scores["stats"] and report["seconds"] > 0
    _, description = load_model(out / BEST)
    assert description.class_names == ["disc", "square", "triangle"]
    for name in ("curves.png", "pictures/1.png", "pictures/2.png", "pictures/3.png"):
        with Image.open(out / name) as picture:
            assert picture.width > 2 * SIZE, name

    printed = capsys.readouterr().out
    last = printed.splitlines()[-4:]
    assert [line.split()[0] for line in last[:3]] == ["AP", "AP50", "seconds"]
    assert str(out / "pictures") in last[3]

    with pytest.raises(UserError, match="expected a new or an empty folder"):
        demo(out)


@pytest.mark.slow
def test_demo_learns(tmp_path: Path) -> None:
    """A third of the training that a user gets: enough to find most of the objects."""
    scores = demo(tmp_path / "demo", train_images=200, val_images=20, epochs=8)
    assert scores["stats"]["AP50"] > 0.3
    assert len(list((tmp_path / "demo" / "pictures").iterdir())) == PICTURES
