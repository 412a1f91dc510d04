"""`focaldet data`: what it prints, writes and returns, and that it touches nothing else."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

import focaldet.cli
from focaldet.data import generate_scenes

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def run(*words: object) -> tuple[int, str, str]:
        code = focaldet.cli.main([str(word) for word in words])
        return code, *capsys.readouterr()

    return run


@pytest.fixture
def scenes(tmp_path: Path) -> Path:
    """Four generated images; all of them train, and the last one, too, validates."""
    folder = tmp_path / "scenes"
    file = generate_scenes(folder, images=4, seed=0, size=96, objects=(5, 9))
    content = json.loads(file.read_text())
    file.rename(folder / "instances_train.json")
    last = content["images"][3:]
    boxes = [box for box in content["annotations"] if box["image_id"] == last[0]["id"]]
    val = content | {"images": last, "annotations": boxes}
    (folder / "instances_val.json").write_text(json.dumps(val))
    return folder


def state(folder: Path) -> dict[str, tuple[bytes, int]]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(f): (f.read_bytes(), f.stat().st_mtime_ns) for f in files}


def test_check_names_errors_and_returns_1_and_changes_nothing(
    run: Run, scenes: Path, tmp_path: Path
) -> None:
    before = state(scenes)
    for folder in (scenes / "images", scenes):
        os.chmod(folder, 0o555)
    try:
        out = tmp_path / "report.json"
        code, text, err = run("data", "check", scenes, "--size", 96, "--json", out)
    finally:
        for folder in (scenes / "images", scenes):
            os.chmod(folder, 0o755)
    assert (code, err) == (1, "") and state(scenes) == before
    assert "error: image-in-two-splits (1): " in text
    assert "\n  val: '00004.png': in train, too\n" in text and "suggested: --anchor-size " in text
    report = json.loads(out.read_text())
    found = {check["id"]: check["findings"] for check in report["checks"]}
    wanted = {"text": "in train, too", "split": "val", "file": "00004.png", "annotation": None}
    assert found["image-in-two-splits"] == [wanted]
    assert report["splits"]["train"]["images"] == 4 and report["anchors"]["boxes"] > 10


def test_check_takes_files_of_coco_and_returns_0_without_errors(run: Run, scenes: Path) -> None:
    for name in ("train", "val"):
        (scenes / f"instances_{name}.json").rename(scenes / f"{name}.txt")
    content = json.loads((scenes / "train.txt").read_text())
    last = content["images"].pop()["id"]
    content["annotations"] = [b for b in content["annotations"] if b["image_id"] != last]
    (scenes / "train.txt").write_text(json.dumps(content))
    words = ("--train", scenes / "train.txt", "--val", scenes / "val.txt")
    code, text, _ = run("data", "check", *words, "--images", scenes / "images", "--size", 96)
    assert code == 0 and "error:" not in text and " 0 errors, " in text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "expected a folder, or --train"),
        (["nowhere"], "nowhere: no such folder"),
        (["{}/images"], "no form of a data set is known in it"),
        (["{}", "--train", "a.json"], "expected a folder, or --train"),
        (["{}", "--images", "images"], "says where its images are"),
        (["--train", "a.json"], "expected --images"),
        (["--train", "a.json", "--images", "nowhere"], "image folder 'nowhere' does not exist"),
        (["{}", "--json", "a.txt"], "--json a.txt: expected a file name that ends with .json"),
        (["{}", "--json", "{}/instances_val.json"], "exists already"),
        (["{}", "--json", "no/such/a.json"], "there is no folder 'no/such'"),
        (["{}", "--recipe", "smal"], "did you mean small?"),
    ],
)
def test_bad_arguments_of_check(run: Run, scenes: Path, words: list[str], message: str) -> None:
    code, _, err = run("data", "check", *(word.format(scenes) for word in words))
    assert code == 2 and message in err and err.count("\n") == 1


def test_show_draws_a_sheet(run: Run, scenes: Path, tmp_path: Path) -> None:
    out = tmp_path / "sheet.png"
    code, text, _ = run("data", "show", scenes, "--count", 3, "--out", out)
    assert (code, text) == (0, f"{out}: 3 of 4 images of train\n")
    with Image.open(out) as sheet:
        assert sheet.width > 3 * 360
        colours = {colour for _, colour in sheet.getcolors(1 << 20) or ()}
    assert {(0xE6, 0x19, 0x4B), (0x3C, 0xB4, 0x4B)} <= colours  # of the first classes' boxes
    again = tmp_path / "again.png"
    run("data", "show", scenes, "--count", 3, "--out", again)
    assert again.read_bytes() == out.read_bytes()
    other = tmp_path / "other.png"
    run("data", "show", scenes, "--count", 3, "--seed", 5, "--out", other)
    assert other.read_bytes() != out.read_bytes()


def test_show_of_what_is_flagged_and_of_a_broken_image(
    run: Run, scenes: Path, tmp_path: Path
) -> None:
    file = scenes / "instances_train.json"
    content = json.loads(file.read_text())
    box = next(b for b in content["annotations"] if b["image_id"] == 2)
    content["annotations"].append(box | {"id": 10_000})  # twice
    file.write_text(json.dumps(content))
    (scenes / "images" / "00002.png").write_text("no image")
    out = tmp_path / "sheet.jpg"
    words = ("--flagged", "--size", 96, "--out", out)
    code, text, _ = run("data", "show", scenes, *words, "--anchor-size", 8)
    assert code == 0 and " of 4 images of train\n" in text and out.stat().st_size > 1000


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--out", "a.gif"], "--out a.gif: expected a file name that ends with .jpg or .png"),
        (["--out", "a.jpg", "--class", "cat"], "--class cat: not there; expected of disc, square"),
        (["--out", "a.jpg", "--split", "test"], "--split test: not there; expected train or val"),
    ],
)
def test_bad_arguments_of_show(run: Run, scenes: Path, words: list[str], message: str) -> None:
    code, _, err = run("data", "show", scenes, *words)
    assert code == 2 and message in err and err.count("\n") == 1


def test_without_an_action_the_help_is_printed(run: Run) -> None:
    code, text, _ = run("data")
    assert code == 0 and "check" in text and "show" in text


def test_show_tells_where_nothing_is_flagged(run: Run, scenes: Path, tmp_path: Path) -> None:
    file = scenes / "instances_train.json"
    content = json.loads(file.read_text())
    content["annotations"] = content["annotations"][:1]  # no pairs
    file.write_text(json.dumps(content))
    words = ("--flagged", "--size", 96, "--anchor-size", 8, "--out", tmp_path / "sheet.jpg")
    code, _, err = run("data", "show", scenes, *words)
    assert code == 2 and "no image has a warning" in err


def test_images_of_one_name_and_count_are_all_drawn(run: Run, scenes: Path, tmp_path: Path) -> None:
    file = scenes / "instances_train.json"
    content = json.loads(file.read_text())
    del content["annotations"][1:]
    for number, image in enumerate(content["images"]):
        name = f"{number}/an_image_with_quite_a_long_name.png"
        (scenes / "images" / str(number)).mkdir()
        (scenes / "images" / image["file_name"]).rename(scenes / "images" / name)
        image["file_name"] = name
    file.write_text(json.dumps(content))
    out = tmp_path / "sheet.png"
    assert run("data", "show", scenes, "--out", out)[0] == 0
    with Image.open(out) as sheet:
        assert sheet.width > 4 * 360
