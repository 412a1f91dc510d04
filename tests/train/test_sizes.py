"""Who decides on the size of an image: sizes and windows that are drawn for training, and images
that are enlarged only so far."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tiny_runs import SIZE, tiny_model, without_clocks
from torch import Tensor

import focaldet.train.run
from focaldet.checkpoint import LAST, Description, load_checkpoint, save_checkpoint
from focaldet.data import (
    CocoDataset,
    Compose,
    HorizontalFlip,
    RandomCrop,
    RandomResize,
    Resize,
    ToTensor,
    eval_transform,
    generate_scenes,
)
from focaldet.data.transforms import Transform
from focaldet.detect import detect
from focaldet.errors import UserError
from focaldet.evaluate import detect_dataset
from focaldet.models import RetinaNet
from focaldet.train import Recipe, train

DRAWN = Compose(
    [
        RandomResize([Resize(side, side) for side in (48, 64, 96)]),
        RandomCrop(56),
        HorizontalFlip(),
        ToTensor(),
    ]
)
MOST = 1.5  # of enlarging, where the model's sizes would have it twice


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scenes") / "set"
    generate_scenes(folder, images=6, seed=1, size=SIZE, objects=(3, 5))
    return folder


def dataset(scenes: Path, transform: Transform, **options: object) -> CocoDataset:
    return CocoDataset(scenes / "instances.json", scenes / "images", transform=transform, **options)


def run(
    scenes: Path, out: Path, transform: Transform = DRAWN, resume: bool = False, **options: object
) -> None:
    """Four steps in two epochs."""
    recipe = Recipe(epochs=2, batch_size=3, workers=0)
    sets = dataset(scenes, transform, **options), dataset(scenes, eval_transform(SIZE))
    train(tiny_model(), *sets, out, recipe, resume=resume)


def weights_of(folder: Path) -> dict[str, Tensor]:
    return load_checkpoint(folder / LAST)[0]


def test_a_run_on_drawn_windows_resumes_to_the_same_bits(
    scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(scenes, tmp_path / "whole")
    step, calls = focaldet.train.run.Run._step, []

    def killed(self, *args):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return step(self, *args)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(focaldet.train.run.Run, "_step", killed)
        run(scenes, tmp_path / "cut")
    with pytest.raises(UserError, match=r"RandomCrop\(size=56.*this command has .*size=48"):
        other = Compose([*DRAWN.transforms[:1], RandomCrop(48), *DRAWN.transforms[2:]])
        run(scenes, tmp_path / "cut", other, resume=True)
    # With a cache of the pictures, too.
    run(scenes, tmp_path / "cut", resume=True, cache=tmp_path / "cache")
    whole, cut = (weights_of(tmp_path / name) for name in ("whole", "cut"))
    assert all(torch.equal(whole[name], cut[name]) for name in whole)
    assert without_clocks(tmp_path / "whole") == without_clocks(tmp_path / "cut")


def test_windows_are_trained_on_at_their_size(
    scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model would resize each of them to 64 pixels."""
    loss, shapes = RetinaNet.loss, []

    def seen(self, batch: Tensor, boxes: Tensor, *more: Tensor):
        if len(batch):
            shapes.append(tuple(batch.shape[-2:]))
            rows = torch.cat([boxes[:, 2:] - boxes[:, :2], 57 - boxes], 1)
            assert (rows > 0).all(), "objects are in the window, and have an area"
        return loss(self, batch, boxes, *more)

    monkeypatch.setattr(RetinaNet, "loss", seen)
    crop = Compose([Resize(96, 96), RandomCrop(56), ToTensor()])
    run(scenes, tmp_path, crop)
    assert set(shapes) == {(64, 64)}  # of 56, padded
    run(scenes, tmp_path / "small", Compose([RandomResize([Resize(30, 30)]), ToTensor()]))
    assert shapes[-1] == (32, 32)


def test_a_window_without_objects_teaches_the_background(tmp_path: Path) -> None:
    generate_scenes(tmp_path / "set", images=2, seed=1, size=SIZE, objects=(1, 1))
    data = dataset(tmp_path / "set", Compose([RandomCrop(24), ToTensor()]))
    counts = set()
    for seed in range(20):
        image, target = data.load(0, torch.Generator().manual_seed(seed))
        assert image.shape == (3, 24, 24) and target["size"] == (24, 24)
        assert target["boxes"].shape == (len(target["labels"]), 4)
        counts.add(len(target["labels"]))
    assert counts == {0, 1}
    run(tmp_path / "set", tmp_path / "run", Compose([RandomCrop(24), ToTensor()]))


def test_a_limit_to_enlarging_is_the_same_everywhere(
    scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Training, evaluation, detection and the model itself see an image of 64 pixels at 96, where
    the model's sizes are 128."""
    config = {"min_size": 2 * SIZE, "max_size": 2 * SIZE, "max_scale": MOST}
    model, sizes = tiny_model(**config), []
    features = RetinaNet.features

    def seen(self, batch: Tensor):
        if len(batch):
            sizes.append(batch.shape[-1])
        return features(self, batch)

    monkeypatch.setattr(RetinaNet, "features", seen)
    still = eval_transform(2 * SIZE, 2 * SIZE, MOST)
    sets = dataset(scenes, still), dataset(scenes, still)
    train(model, *sets, tmp_path / "run", Recipe(epochs=1, workers=0))
    model = model.eval()
    model.score_thresh = 0.0
    found = detect_dataset(model, dataset(scenes, still))
    weights = tmp_path / "model.safetensors"
    described = Description(model.config, ["disc", "square", "triangle"], [1, 2, 3])
    save_checkpoint(weights, model.state_dict(), described)
    records = detect([scenes / "images"], weights, tmp_path / "pictures", 0.0)
    model([torch.rand(3, SIZE, SIZE)])
    assert set(sizes) == {int(SIZE * MOST)}
    first = json.loads(records.read_text())[0]["detections"][0]
    boxes = torch.from_numpy(found.boxes)
    near = (boxes - torch.tensor(first["bbox"])).abs().amax(1).min()
    assert near < 0.05, "boxes are in pixels of the image that came"
