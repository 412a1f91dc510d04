"""The commands, in process: what they print and return, and one line for every bad input."""

from __future__ import annotations

import functools
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from noise import noise
from processes import free_port

import focaldet.cli
from focaldet import recipes
from focaldet.checkpoint import Description, save_checkpoint
from focaldet.cli.train import configuration
from focaldet.data import generate_scenes
from focaldet.models import RetinaNet
from focaldet.train import Recipe

SIZE = 64
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(autouse=True)
def small_and_on_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """The commands train a model of this size: seconds, not minutes, and no large files."""
    torch.set_num_threads(1)
    small = functools.partial(RetinaNet, width=16, fpn_channels=16, head_depth=1)
    monkeypatch.setattr("focaldet.recipes.RetinaNet", small)


@pytest.fixture
def run(capsys: pytest.CaptureFixture) -> Run:
    """Runs a command line; returns exit code, stdout and stderr."""

    def run(*words: object) -> tuple[int, str, str]:
        code = focaldet.cli.main([str(word) for word in words])
        return code, *capsys.readouterr()

    return run


@pytest.fixture
def refused(run: Run) -> Callable[..., str]:
    """Runs a command line that must be refused, with one line on stderr, which it returns."""

    def refused(*words: object) -> str:
        code, _, err = run(*words)
        assert code == 2, err
        assert err.startswith("focaldet: error: ") and err.endswith("\n"), err
        assert err.count("\n") == 1 and "Traceback" not in err, err
        return err

    return refused


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cli")
    generate_scenes(folder / "set", images=4, seed=1, size=SIZE, objects=(3, 5))
    torch.manual_seed(0)
    model = RetinaNet(
        3, "resnet18", width=16, fpn_channels=16, head_depth=1, min_size=SIZE, max_size=SIZE
    )
    description = Description(model.config, ["disc", "square", "triangle"], [1, 2, 3])
    save_checkpoint(folder / "model.safetensors", model.state_dict(), description)
    return folder


@pytest.fixture
def work(original: Path, tmp_path: Path) -> Path:
    """A folder with set/instances.json, set/images and model.safetensors, free to be spoilt."""
    shutil.copytree(original, tmp_path, dirs_exist_ok=True)
    return tmp_path


def train_words(work: Path, *more: object) -> list[object]:
    annotations, images = work / "set" / "instances.json", work / "set" / "images"
    words = ["train", "--train", annotations, "--val", annotations, "--images", images]
    words += ["--size", SIZE, "--epochs", 1, "--workers", 0, "--out", work / "run", *more]
    return words


def spoil(work: Path, change: Callable[[dict], object]) -> None:
    file = work / "set" / "instances.json"
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


def test_train_evaluate_detect(run: Run, work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {p: p.read_bytes() for p in (work / "set").rglob("*") if p.is_file()}
    code, out, err = run(*train_words(work, "--batch-size", 2, "--ema", 0.9))
    assert code == 0, err
    assert "epoch 1/1  loss" in out and "AP50" in out and "triangle" in out

    data = ["--data", work / "set" / "instances.json", "--images", work / "set" / "images"]
    best = work / "run" / "best.safetensors"
    code, out, err = run(
        "evaluate", "--weights", best, *data, "--workers", 0, "--json", work / "scores.json"
    )
    assert code == 0, err
    scores = json.loads((work / "scores.json").read_text())
    assert set(scores["per_class_AP"]) == {"1", "2", "3"}
    assert f"{scores['stats']['AP']:.3f}" in out

    code, out, err = run(
        "detect", work / "set" / "images", "--weights", best, "--out", work / "pictures"
    )
    assert code == 0, err
    assert len(list((work / "pictures").glob("*.jpg"))) == 4
    assert "on 4 images" in out and str(work / "pictures") in out

    last, previous = (work / "run" / f"{name}.safetensors" for name in ("last", "previous"))
    last.rename(previous)
    last.write_bytes(previous.read_bytes()[:-1])
    code, out, err = run(*train_words(work, "--batch-size", 2, "--ema", 0.9, "--resume"))
    assert code == 0, err
    (line,) = err.splitlines()
    assert line.startswith(f"focaldet: {last}: not a focaldet checkpoint, or a truncated one")
    assert line.endswith(f"took {previous} instead")
    last.unlink()
    # As torchrun starts it again: it goes on, if only with the older one.
    place = {"RANK": 0, "WORLD_SIZE": 1, "LOCAL_RANK": 0, "MASTER_ADDR": "127.0.0.1"}
    for name, value in (place | {"TORCHELASTIC_RESTART_COUNT": 1}).items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setenv("MASTER_PORT", str(free_port()))
    code, out, err = run(*train_words(work, "--batch-size", 2, "--ema", 0.9))
    assert code == 0 and err.startswith(f"focaldet: {last}: no such checkpoint"), err
    after = {p: p.read_bytes() for p in (work / "set").rglob("*") if p.is_file()}
    assert after == before, "the user's data is never written to"


def test_pascal_voc_folders(run: Run, work: Path) -> None:
    root = work / "voc"
    for folder in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (root / folder).mkdir(parents=True)
    for seed, name in enumerate(("one", "two")):
        noise((48, 40), 50, seed).save(root / "JPEGImages" / f"{name}.jpg")
        (root / "Annotations" / f"{name}.xml").write_text(
            f"<annotation><filename>{name}.jpg</filename>"
            "<size><width>48</width><height>40</height><depth>3</depth></size>"
            "<object><name>cell</name><bndbox><xmin>5</xmin><ymin>5</ymin><xmax>30</xmax>"
            "<ymax>25</ymax></bndbox></object></annotation>"
        )
        (root / "ImageSets" / "Main" / f"{name}.txt").write_text(f"{name}\n")
    splits = ["--train-split", "one", "--val-split", "two"]
    words = ["--size", SIZE, "--epochs", 1, "--workers", 0, "--out", work / "run"]
    code, out, err = run("train", "--data", root, *splits, *words)
    assert code == 0, err
    weights = work / "run" / "last.safetensors"
    code, out, err = run("evaluate", "--weights", weights, "--voc", root, "--split", "two")
    assert code == 0, err
    assert "cell" in out


def test_evaluate_scores_a_file_of_detections(run: Run, work: Path) -> None:
    truth = json.loads((work / "set" / "instances.json").read_text())
    keys = ("image_id", "category_id", "bbox")
    found = [{**{k: a[k] for k in keys}, "score": 1.0} for a in truth["annotations"]]
    (work / "dt.json").write_text(json.dumps(found))
    words = ["--data", work / "set" / "instances.json", "--detections", work / "dt.json"]
    code, out, err = run("evaluate", *words, "--json", work / "out.json")
    assert code == 0, err
    scores = json.loads((work / "out.json").read_text())
    assert set(scores) == {"tool", "stats", "per_class_AP"}
    assert scores["stats"]["AP"] == pytest.approx(1)
    assert "disc" in out


def test_env_reports(run: Run) -> None:
    code, out, err = run("env")
    assert code == 0, err
    assert torch.__version__ in out


def test_without_arguments_it_is_the_default_recipe() -> None:
    arguments = focaldet.cli.make_parser().parse_args(["train", "--out", "run"])
    assert configuration(arguments) == recipes.load(recipes.DEFAULT)
    assert configuration(arguments).make_recipe() == Recipe()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["fly"], "invalid choice: 'fly'"),
        (["train"], "--out"),
        (["train", "--out", "run"], "expected --data, or --train, --val and --images"),
        (["train", "--out", "run", "--data", "x", "--yolo", "x"], "--data and --yolo: the data is"),
        (["train", "--out", "x", "--voc", "x", "--val-images", "x"], "--voc and --val-images: the"),
        (
            ["train", "--out", "run", "--train", "x", "--images", "x"],
            "images: expected --val beside",
        ),
        (["train", "--out", "run", "--data", "no"], "no: no such folder; expected a data set"),
        (["train", "--out", "run", "--data", "no.json"], "no.json: is no folder; COCO files are"),
        (["train", "--out", "run", "--epochs", "0"], "--epochs: expected a whole number above 0"),
        (["train", "--out", "run", "--lr", "nan"], "--lr: expected a number, 0 or more"),
        (["train", "--out", "run", "--ema", "1"], "--ema: expected a number from 0 to 1"),
        (["train", "--out", "run", "--size", "32"], "--size: expected a whole number, 64 or more"),
        (["train", "--out", "run", "--alpha", "2"], "--alpha: expected a number from 0 to 1"),
        (
            ["train", "--out", "run", "--backbone", "vgg"],
            "--backbone: backbone: expected one of resnet18",
        ),
        (["evaluate"], "expected either --weights"),
        (["evaluate", "--detections", "dt.json"], "expected --data"),
        (["detect", "x.jpg", "--out", "y", "--weights", "no"], "x.jpg: no such file or folder"),
    ],
)
def test_bad_arguments(refused: Callable[..., str], words: list[str], message: str) -> None:
    assert message in refused(*words)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.update(images=[], annotations=[]), "is empty: it holds no images"),
        (lambda c: c.update(annotations=[]), "is empty: it holds no boxes"),
        (lambda c: c.pop("categories"), "has no list 'categories'"),
        (lambda c: c["annotations"][2].update(bbox=[500, 5, 9, 9]), "lies outside the image"),
        (lambda c: c["annotations"][2].update(bbox=[5, 5, 0, 9]), "has no area"),
        (lambda c: c["annotations"][2].update(bbox=[5, 5, float("nan"), 9]), "is not finite"),
        (lambda c: c["annotations"][2].update(category_id=99), "'category_id' is 99"),
        (lambda c: c["images"][1].update(file_name="../../secret.png"), "'../../secret.png'"),
        (lambda c: c["images"][1].update(file_name="none.png"), "'none.png'"),
    ],
)
def test_bad_annotations(
    refused: Callable[..., str], work: Path, change: Callable[[dict], object], message: str
) -> None:
    spoil(work, change)
    assert message in refused(*train_words(work))
    assert not (work / "run").exists()


def test_an_annotation_file_that_is_no_json(refused: Callable[..., str], work: Path) -> None:
    (work / "set" / "instances.json").write_text("[1,")
    assert "is not JSON" in refused(*train_words(work))
    (work / "set" / "instances.json").unlink()
    assert "instances.json" in refused(*train_words(work))


@pytest.mark.parametrize("workers", [0, 1])
def test_a_corrupt_image_ends_training_or_is_skipped(
    refused: Callable[..., str], run: Run, work: Path, workers: int
) -> None:
    (work / "set" / "images" / "00002.png").write_bytes(b"\x89PNG\r\n\x1a\n cut off")
    assert "00002.png" in refused(*train_words(work), "--workers", workers)
    words = [*train_words(work), "--out", work / "other", "--workers", workers]
    code, out, err = run(*words, "--skip-bad-images")
    assert code == 0, err
    assert "00002.png" in err and "Traceback" not in err
    assert "bad images skipped: 1 in training, 1 in validation" in out


def test_bad_checkpoints(refused: Callable[..., str], work: Path) -> None:
    weights = work / "model.safetensors"
    data = ["--data", work / "set" / "instances.json", "--images", work / "set" / "images"]
    spoil(work, lambda c: c["categories"][0].update(name="ring"))
    line = refused("evaluate", "--weights", weights, *data)
    assert "a checkpoint for the classes disc, square, triangle; the data set has ring" in line

    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    for words in (["evaluate", *data], ["detect", work / "set", "--out", work / "out"]):
        assert "model.safetensors: not a focaldet checkpoint" in refused(
            *words, "--weights", weights
        )
    assert not (work / "out").exists()


def test_a_checkpoint_of_another_model_is_not_resumed(
    refused: Callable[..., str], run: Run, work: Path
) -> None:
    assert run(*train_words(work))[0] == 0
    assert "has loss focal; this command has loss ohem" in refused(
        *train_words(work), "--resume", "--loss", "ohem"
    )


def test_bad_detection_files(refused: Callable[..., str], work: Path) -> None:
    truth, found = work / "set" / "instances.json", work / "dt.json"
    words = ["evaluate", "--data", truth, "--detections", found]
    assert "dt.json: cannot be read" in refused(*words)
    found.write_text("{")
    assert "dt.json: not a JSON file" in refused(*words)
    found.write_text('[{"image_id": 99, "category_id": 1, "bbox": [1, 2, 3, 4], "score": 1}]')
    assert "dt.json: detection 0: image_id 99" in refused(*words)
    found.write_text("[]")
    before = truth.read_bytes()
    assert "is one of the inputs" in refused(*words, "--json", truth)
    assert truth.read_bytes() == before


def test_a_device_that_is_not_there(refused: Callable[..., str], work: Path) -> None:
    assert "--device abacus: cannot be used here" in refused(
        *train_words(work), "--device", "abacus"
    )


def test_ctrl_c_ends_quietly(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(focaldet.cli.COMMANDS["env"], "run", interrupt)
    code, _, err = run("env")
    assert (code, err) == (130, "focaldet: interrupted\n")


def test_a_full_disk_is_one_line(
    refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device", "run/last.safetensors")

    monkeypatch.setattr(focaldet.cli.COMMANDS["env"], "run", fail)
    assert "No space left on device: 'run/last.safetensors'" in refused("env")


def test_python_m_focaldet_is_the_same(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "focaldet", "detect", "no.jpg", "--out", "o", "--weights", "w"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert (
        done.stderr
        == "focaldet: error: no.jpg: no such file or folder; expected images, or folders of them\n"
    )


def test_a_reader_who_has_seen_enough_is_no_error(tmp_path):
    command = f"{sys.executable} -m focaldet env | true; exit ${{PIPESTATUS[0]}}"
    # Elsewhere: `python -m` finds ./focaldet first, built or not.
    done = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (141, "")


def test_an_evaluator_that_is_not_installed(
    refused: Callable[..., str], work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("focaldet.scoring.find_spec", lambda name: None)
    (work / "dt.json").write_text("[]")
    words = ["evaluate", "--data", work / "set" / "instances.json", "--evaluator", "ultrafast"]
    model = ["--weights", work / "model.safetensors", "--images", work / "set" / "images"]
    for inputs in (["--detections", work / "dt.json"], model):
        assert 'pip install "focaldet[fast-eval]"' in refused(*words, *inputs)
