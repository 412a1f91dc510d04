"""`focaldet convert`, and `focaldet train` from weights: what they write works with the others."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import zoo

import focaldet.cli
from focaldet.checkpoint import load_checkpoint, load_model
from focaldet.data import generate_scenes
from focaldet.models import RetinaNet
from focaldet.models.resnet import ResNet

SIZE = 64
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture) -> Run:
    """Runs a command line; returns exit code, stdout and stderr."""

    def run(*words: object) -> tuple[int, str, str]:
        torch.set_num_threads(1)
        code = focaldet.cli.main([str(word) for word in words])
        return code, *capsys.readouterr()

    return run


@pytest.fixture
def scenes(tmp_path: Path) -> list[object]:
    generate_scenes(tmp_path / "set", images=2, seed=1, size=SIZE, objects=(3, 5))
    return [tmp_path / "set" / "instances.json", tmp_path / "set" / "images"]


def zoo_file(folder: Path) -> Path:
    """A model zoo's file of three classes."""
    weights = zoo.randomised(zoo.Detectron2(3)).state_dict()
    arrays = {name: value.numpy() for name, value in weights.items()}
    path = folder / "RetinaNet_R_50_FPN_1x.pkl"
    path.write_bytes(pickle.dumps({"model": arrays, "__author__": "Detectron2 Model Zoo"}))
    return path


def test_a_model_of_the_zoo_detects_and_is_evaluated(
    run: Run, tmp_path: Path, scenes: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    names, out = tmp_path / "names.txt", tmp_path / "out.safetensors"
    names.write_text("disc\nsquare\n\ntriangle\n")
    code, text, err = run("convert", zoo_file(tmp_path), "--out", out, "--class-names", names)
    assert code == 0, err
    assert "a RetinaNet of detectron2 on a resnet50, 3 classes (disc, square, triangle)" in text

    small = {"min_size": SIZE, "max_size": SIZE}  # 800 x 1333 would take a minute
    plain = RetinaNet.from_config
    monkeypatch.setattr(RetinaNet, "from_config", lambda config: plain(config | small))
    code, text, err = run("evaluate", "--weights", out, "--data", scenes[0], "--images", scenes[1])
    assert code == 0 and "triangle" in text, err
    pictures = tmp_path / "pictures"
    code, text, err = run("detect", scenes[1], "--weights", out, "--out", pictures)
    assert code == 0 and len(list(pictures.glob("*.jpg"))) == 2, err


def test_bad_input_writes_nothing(run: Run, tmp_path: Path) -> None:
    file, out = zoo_file(tmp_path), tmp_path / "out.safetensors"
    names = tmp_path / "names.txt"
    names.write_text("one\ntwo\n")
    for words, message in (
        ([file, "--class-names", names], "expected 3 class names, in label order, got 2"),
        ([file, "--class-names", tmp_path / "no.txt"], "no.txt: cannot be read"),
        ([file, "--layout", "mmdetection"], "The nearest known layout is detectron2, with 100%"),
        ([names], "names.txt: not a file of torch.save"),
        ([file, "--norm-eps", "-1"], "--norm-eps: expected a number, 0 or more"),
        ([file, "--layout", "yolo"], "invalid choice: 'yolo'"),
    ):
        code, _, err = run("convert", *words, "--out", out)
        assert code == 2 and message in err and err.count("\n") == 1, err
        assert not out.exists()
    out.write_text("mine")
    code, _, err = run("convert", file, "--out", out)
    assert code == 2 and "exists already" in err and out.read_text() == "mine"
    code, _, err = run("convert", tmp_path / "set", "--out", tmp_path / "new.safetensors")
    assert code == 2 and "no such file" in err, err


def test_a_checkpoint_is_not_converted_again(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "out.safetensors"
    assert run("convert", zoo_file(tmp_path), "--out", out)[0] == 0
    code, _, err = run("convert", out, "--out", tmp_path / "again.safetensors")
    assert code == 2 and "is a checkpoint of focaldet already" in err


def train_words(tmp_path: Path, scenes: list[object], *more: object) -> list[object]:
    words = ["train", "--train", scenes[0], "--val", scenes[0], "--images", scenes[1]]
    words += ["--size", SIZE, "--epochs", 1, "--workers", 0, "--out", tmp_path / "run", *more]
    return words


def test_training_starts_from_weights(run: Run, tmp_path: Path, scenes: list[object]) -> None:
    """With frozen norms, statistics tell where they came from; and v2 is trained."""
    body = ResNet("resnet18")
    body.bn1.running_mean += 0.25
    torch.save(body.state_dict(), tmp_path / "resnet18.pth")
    words = ["--backbone-weights", tmp_path / "resnet18.pth", "--norm", "frozen", "--preset", "v2"]
    code, _, err = run(*train_words(tmp_path, scenes, *words))
    assert code == 0, err
    weights, description, _ = load_checkpoint(tmp_path / "run" / "last.safetensors")
    assert (weights["backbone.body.bn1.running_mean"] == 0.25).all()
    assert description.model["head_norm"] == "group" and description.model["box_loss"] == "giou"


def test_training_with_a_body_of_timm(run: Run, tmp_path: Path, scenes: list[object]) -> None:
    timm = pytest.importorskip("timm")
    name = "tf_mobilenetv3_small_minimal_100"  # expects images from -1 to 1
    torch.save(timm.create_model(name).state_dict(), tmp_path / "w.pth")
    words = ["--backbone", f"timm/{name}", "--backbone-weights", tmp_path / "w.pth"]
    code, _, err = run(*train_words(tmp_path, scenes, *words))
    assert code == 0, err
    model, _ = load_model(tmp_path / "run" / "last.safetensors")
    assert model.config["backbone"] == f"timm/{name}" and model.config["image_mean"] == [0.5] * 3


def test_backbones_that_do_not_fit(run: Run, tmp_path: Path, scenes: list[object]) -> None:
    pytest.importorskip("timm")
    for words, message in (
        (["--backbone", "timm/resnet18x"], "the nearest are resnet18, resnet18d"),
        (["--backbone", "timm/resnet18", "--norm", "group"], "norm: applies to ResNets"),
        (["--backbone-weights", "download"], "for timm/<name> only"),
        (["--norm", "frozen"], "expected --backbone-weights, or --norm batch or group"),
        (["--backbone-weights", tmp_path / "no.pth"], "no.pth: no such file"),
    ):
        code, _, err = run(*train_words(tmp_path, scenes, *words))
        assert code == 2 and message in err and err.count("\n") == 1, err
    assert not (tmp_path / "run").exists()


def test_published_weights_are_asked_of_timm(
    run: Run, tmp_path: Path, scenes: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    timm = pytest.importorskip("timm")
    plain, asked = timm.create_model, []

    def offline(name: str, pretrained: bool = False, **options):
        asked.append(pretrained)
        if pretrained:
            raise OSError("no network\nand more lines")
        return plain(name, **options)

    monkeypatch.setattr(timm, "create_model", offline)
    words = ["--backbone", "timm/resnet18", "--backbone-weights", "download"]
    code, _, err = run(*train_words(tmp_path, scenes, *words))
    assert code == 2 and "timm cannot make it as features (no network)" in err, err
    assert asked == [False, False, True]
