"""`focaldet explain`: pages, each with the annotations of its image; one line for what fails."""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image
from tiny_runs import tiny_model

from focaldet.checkpoint import Description, save_checkpoint
from focaldet.cli import main
from focaldet.data import generate_scenes
from focaldet.data.coco import read_coco
from focaldet.errors import UserError
from focaldet.explain import Truth, explain

NAMES = ["disc", "square", "triangle"]


@pytest.fixture
def case(tmp_path: Path) -> SimpleNamespace:
    """Three scenes, their annotations, and a model of their classes in another order."""
    generate_scenes(tmp_path / "scenes", images=3, seed=1, size=64, objects=(2, 4))
    scenes = tmp_path / "scenes"
    content = json.loads((scenes / "instances.json").read_text())
    names = [c["name"] for c in content["categories"]][::-1]
    model = tiny_model(score_thresh=0.0101)
    weights = tmp_path / "w.safetensors"
    save_checkpoint(weights, model.state_dict(), Description(model.config, names, [3, 2, 1]))
    return SimpleNamespace(
        images=scenes / "images",
        files=sorted((scenes / "images").iterdir()),
        data=scenes / "instances.json",
        content=content,
        names=names,
        weights=weights,
        out=tmp_path / "out",
    )


def run(case: SimpleNamespace, *paths: Path, **options: Any) -> int:
    words = [f"--{name}={value}" for name, value in options.items()]
    given = ["--weights", str(case.weights), "--out", str(case.out), "--device", "cpu"]
    return main(["explain", *map(str, paths), *given, *words])


def test_a_page_for_each_image(case: SimpleNamespace, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.read_bytes() for path in case.images.parent.rglob("*") if path.is_file()}
    assert run(case, case.images, data=case.data) == 0
    assert f"3 pages in {case.out}, such as" in capsys.readouterr().out
    assert sorted(p.name for p in case.out.iterdir()) == [f"{f.stem}.html" for f in case.files]
    for file, entry in zip(case.files, case.content["images"], strict=True):
        assert entry["file_name"] == file.name
        objects = [a for a in case.content["annotations"] if a["image_id"] == entry["id"]]
        text = (case.out / f"{file.stem}.html").read_text()
        assert f"<dd>{len(objects)}, of which" in text
    after = {path: path.read_bytes() for path in case.images.parent.rglob("*") if path.is_file()}
    assert after == before


def test_without_annotations(case: SimpleNamespace) -> None:
    assert run(case, case.files[0]) == 0
    assert "Without ground truth" in (case.out / f"{case.files[0].stem}.html").read_text()


def test_labels_are_the_checkpoints(case: SimpleNamespace) -> None:
    target, crowd, size = Truth(read_coco(case.data), case.names, "w").of(case.files[1])
    entry = case.content["images"][1]
    own = [a for a in case.content["annotations"] if a["image_id"] == entry["id"]]
    names = {c["id"]: c["name"] for c in case.content["categories"]}
    assert [case.names[k] for k in target["labels"]] == [names[a["category_id"]] for a in own]
    x, y, width, height = own[0]["bbox"]
    assert target["boxes"][0].tolist() == pytest.approx([x, y, x + width, y + height])
    assert size == (64, 64) and not len(crowd["labels"])


def test_crowd_is_told_apart(case: SimpleNamespace) -> None:
    whole = Truth(read_coco(case.data), case.names, "w").of(case.files[0]).target
    first = next(
        a for a in case.content["annotations"] if a["image_id"] == case.content["images"][0]["id"]
    )
    first["iscrowd"] = 1
    case.data.write_text(json.dumps(case.content))
    target, crowd, _ = Truth(read_coco(case.data), case.names, "w").of(case.files[0])
    for key, of_target in target.items():
        assert torch.equal(torch.cat([crowd[key], of_target]), whole[key])
    assert len(crowd["labels"]) == 1
    assert run(case, case.files[0], data=case.data) == 0
    assert "<dt>Crowd regions</dt>" in (case.out / f"{case.files[0].stem}.html").read_text()


def test_bad_images_are_named_after_the_others_are_done(
    case: SimpleNamespace, capsys: pytest.CaptureFixture[str]
) -> None:
    (case.images / "000_bad.jpg").write_bytes(b"no image")
    assert run(case, case.images) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert "000_bad.jpg" in line and line.endswith("(of 4 images: 1 unreadable)")
    assert len(list(case.out.iterdir())) == 3


def test_an_image_without_annotations_is_named(
    case: SimpleNamespace, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.new("RGB", (64, 64)).save(case.images / "other.png")
    assert run(case, case.images, data=case.data) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert "other.png" in line and "has no image of this name" in line
    assert line.endswith("(of 4 images: 1 not told by the annotations)")
    assert len(list(case.out.iterdir())) == 3


def test_an_image_of_another_size_than_annotated_is_named(
    case: SimpleNamespace, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.new("RGB", (50, 64)).save(case.files[0])
    assert run(case, case.files[0], data=case.data) == 2
    assert "its annotations are for 64 x 64" in capsys.readouterr().err


def test_folders_tell_images_of_one_name_apart(case: SimpleNamespace, tmp_path: Path) -> None:
    first, second, third = case.content["images"]
    first["file_name"], second["file_name"], third["file_name"] = "a/x.png", "b/x.png", "x.png"
    case.data.write_text(json.dumps(case.content))
    truth = Truth(read_coco(case.data), case.names, "w")
    counts = [
        sum(a["image_id"] == entry["id"] for a in case.content["annotations"])
        for entry in (first, second, third)
    ]
    for place, count in (("c/x.png", counts[2]),):
        assert len(truth.of(tmp_path / place)[0]["labels"]) == count
    for place in ("a/x.png", "q/b/x.png"):  # "x.png" fits as well
        with pytest.raises(UserError, match="has several images of this name"):
            truth.of(tmp_path / place)


@pytest.mark.parametrize("bad", ["classes", "out", "data"])
def test_bad_input_is_one_line(
    case: SimpleNamespace, bad: str, capsys: pytest.CaptureFixture[str]
) -> None:
    options: dict[str, Any] = {"data": case.data}
    expected = {
        "classes": "a checkpoint for the classes",
        "out": "expected a new or an empty folder",
        "data": "no split 'val'",
    }[bad]
    if bad == "classes":
        case.content["categories"][0]["name"] = "ant"
    elif bad == "out":
        case.out.mkdir()
        (case.out / "mine.txt").write_text("")
    else:
        options["data"] = case.out.parent
    case.data.write_text(json.dumps(case.content))
    assert run(case, case.images, **options) == 2
    err = capsys.readouterr().err
    assert expected in err and len([li for li in err.splitlines() if "error" in li]) == 1
    assert bad != "out" or [p.name for p in case.out.iterdir()] == ["mine.txt"]


def test_a_bad_box_is_named_and_left_out(
    case: SimpleNamespace, capsys: pytest.CaptureFixture[str]
) -> None:
    first = case.content["annotations"][0]
    first["bbox"][2] = 0
    case.data.write_text(json.dumps(case.content))
    assert run(case, case.files[0], data=case.data) == 0
    assert "left out 1 bad box: annotation" in capsys.readouterr().err
    left = sum(a["image_id"] == first["image_id"] for a in case.content["annotations"]) - 1
    assert f"<dd>{left}, of which" in (case.out / f"{case.files[0].stem}.html").read_text()


def test_a_voc_folder(case: SimpleNamespace, tmp_path: Path) -> None:
    root = tmp_path / "voc"
    for name in ("Annotations", "ImageSets/Main"):
        (root / name).mkdir(parents=True)
    (root / "JPEGImages").mkdir()
    Image.open(case.files[0]).save(root / "JPEGImages" / "one.jpg")
    objects = "".join(
        f"<object><name>{name}</name><bndbox><xmin>5</xmin><ymin>5</ymin><xmax>30</xmax>"
        "<ymax>40</ymax></bndbox></object>"
        for name in case.names
    )
    size = "<size><width>64</width><height>64</height><depth>3</depth></size>"
    (root / "Annotations" / "one.xml").write_text(f"<annotation>{size}{objects}</annotation>")
    (root / "ImageSets" / "Main" / "val.txt").write_text("one\n")
    assert run(case, root / "JPEGImages", data=root) == 0
    assert "<dd>3, of which" in (case.out / "one.html").read_text()


def test_real_images(data_dir: Path, tmp_path: Path) -> None:
    """Blood cells, by a model that has learned nothing."""
    data = data_dir / "bccd" / "instances_val.json"
    table = read_coco(data)
    model = tiny_model(min_size=128, max_size=128, score_thresh=0.01)
    described = Description(model.config, table.class_names, table.category_ids)
    save_checkpoint(tmp_path / "w.safetensors", model.state_dict(), described)
    files = [data_dir / "bccd" / "images" / name for name in table.file_names[:2]]
    pages = explain(files, tmp_path / "w.safetensors", tmp_path / "out", table)
    for row, path in enumerate(pages):
        text = path.read_text()
        assert f"<dd>{(table.image_rows == row).sum()}, of which" in text
        assert os.path.getsize(path) < 3e6
