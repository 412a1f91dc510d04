from __future__ import annotations

import builtins
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from focaldet.data import CocoDataset, SkippedBoxWarning, SkippedImageWarning, YoloDataset
from focaldet.data.folder import open_folder
from focaldet.errors import UserError

NAMES = "cat\ndog\n"
YAML = "names: [cat, dog]\n"
LINES = {  # by image
    "a": "1 0.5 0.5 0.5 0.25\n\n0 0.1 0.1 0.2 0.2\n",
    "b": "",
    "c": "0 0.25 0.5 0.5 0.5\n",
}


def picture(file: Path, width: int = 60, height: int = 40, orientation: int = 1) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    exif = Image.Exif()
    exif[0x112] = orientation
    Image.new("RGB", (width, height)).save(file, exif=exif)


def write(root: Path, images: str, labels: str, names: str = "abc", suffix: str = ".jpg") -> None:
    """Images a, b and c in `images`, and their lines in `labels`; b has no file of labels."""
    for name in names:
        picture(root / images / f"{name}{suffix}")
        (root / labels).mkdir(parents=True, exist_ok=True)
        if LINES[name]:
            (root / labels / f"{name}.txt").write_text(LINES[name])


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write(tmp_path, "images/train", "labels/train")
    (tmp_path / "classes.txt").write_text(NAMES)
    return tmp_path


def expected(dataset: YoloDataset) -> None:
    """It holds what LINES says, on images of 60 x 40."""
    assert dataset.class_names == ["cat", "dog"] and dataset.category_ids == [0, 1]
    assert [Path(name).stem for name in dataset.table.file_names] == ["a", "b", "c"]
    boxes = [[15, 15, 45, 25], [0, 0, 12, 8]]
    torch.testing.assert_close(dataset[0][1]["boxes"], torch.tensor(boxes, dtype=torch.float32))
    assert dataset[0][1]["labels"].tolist() == [1, 0]
    assert dataset[1][1]["boxes"].shape == (0, 4)
    assert dataset[2][1]["boxes"].tolist() == [[0, 10, 30, 30]]
    assert dataset.table.object_ids.tolist() == [1, 3, 1]  # the lines
    assert dataset.table.image_ids.tolist() == [1, 2, 3]


# Where things are: images, labels, and files with their texts.
LAYOUTS: dict[str, tuple[str, str, dict[str, str]]] = {
    "ultralytics": (
        "images/train",
        "labels/train",
        {"coco.yaml": "path: .\ntrain: images/train\nnames:\n  0: cat\n  1: dog\ntest:\n"},
    ),
    "ultralytics, path of another machine": (
        "images/train",
        "labels/train",
        {"data.yaml": f"path: ../datasets/coco\ntrain: images/train\nnc: 2\n{YAML}"},
    ),
    "roboflow": (
        "train/images",
        "train/labels",
        {"data.yaml": f"train: ../train/images\nval: ../valid/images\nnc: 2\n{YAML}"},
    ),
    "data.yaml without paths": ("train/images", "train/labels", {"data.yml": YAML}),
    "several folders and a list": (
        "images/one",
        "labels/one",
        {
            "data.yaml": f"train: [list.txt, images/two]\n{YAML}",
            "list.txt": "./images/one/a.jpg\nimages/one/b.jpg\nimages/one/c.jpg\n",
            "images/two/readme.md": "",
        },
    ),
    "classes.txt": ("images/train", "labels/train", {"classes.txt": NAMES}),
    "obj.names and a list": (
        "obj",
        "obj",
        {"obj.names": NAMES, "train.txt": "obj/a.jpg\nobj/b.jpg\n\nobj/c.jpg\n"},
    ),
    "flat with a list": (
        "images",
        "labels",
        {"labels/classes.txt": NAMES, "train.txt": "images/a.jpg\nimages/b.jpg\nimages/c.jpg\n"},
    ),
    "beside the images": ("train", "train", {"classes.txt": NAMES}),
    "images within images": ("images/images/train", "images/labels/train", {
        "data.yaml": f"train: images/images/train\n{YAML}"
    }),
}  # fmt: skip


@pytest.mark.parametrize("name", LAYOUTS)
def test_layouts(name: str, tmp_path: Path) -> None:
    images, labels, files = LAYOUTS[name]
    write(tmp_path, images, labels)
    for file, text in files.items():
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text(text)
    expected(YoloDataset(tmp_path, "train"))


def test_a_yaml_file_stands_for_its_folder(root: Path) -> None:
    (root / "a.yaml").write_text(YAML)
    (root / "b.yaml").write_text("names: [other, names]")
    expected(YoloDataset(root / "a.yaml", "train"))


def test_roboflows_valid_is_val(root: Path) -> None:
    write(root, "valid/images", "valid/labels", "c")
    assert YoloDataset(root, "val").file_name(0) == "valid/images/c.jpg"


def test_a_split_that_is_named_and_missing_does_not_hide_the_others(root: Path) -> None:
    (root / "data.yaml").write_text(YAML + "train: images/train\ntest: ../test/images\n")
    assert len(open_folder(root, "train")) and len(open_folder(root / "data.yaml", "train"))
    with pytest.raises(UserError, match="test/images is not there"):
        open_folder(root, "test")


def test_a_class_may_be_called_no_or_1(root: Path) -> None:
    (root / "data.yaml").write_text("names: [no, 1]")
    assert YoloDataset(root, "train").class_names == ["no", "1"]


def test_a_polygon_gives_the_box_around_it(root: Path) -> None:
    line = "1 0.5 0.25 0.75 0.5 0.5 0.75 0.25 0.5\n"
    (root / "labels/train/c.txt").write_text(line)
    assert YoloDataset(root, "train")[2][1]["boxes"].tolist() == [[15, 10, 45, 30]]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_boxes_are_in_the_frame_of_the_upright_image(root: Path, orientation: int) -> None:
    picture(root / "images/train/c.jpg", orientation=orientation)
    image, target = YoloDataset(root, "train")[2]
    height, width = target["size"]
    assert (height, width) == tuple(image.shape[1:]) == ((60, 40) if orientation > 4 else (40, 60))
    box = torch.tensor([[0, height / 4, width / 2, 3 * height / 4]])
    torch.testing.assert_close(target["boxes"], box)


# Wrong files: what is done, and words of the one line.

Change = Callable[[Path], Any]


def label(text: str) -> Change:
    return lambda root: (root / "labels/train/c.txt").write_text(text)


def data(text: str) -> Change:
    return lambda root: (root / "data.yaml").write_text(text)


WRONG: dict[str, tuple[Change, list[str]]] = {
    "pixels": (label("0 .5 .5 .1 .1\n0 30 20 10 10"), ["c.txt: line 2", "30", "not pixels"]),
    "a text": (label("cat .5 .5 .1 .1"), ["line 1", "'cat .5", "not all numbers"]),
    "four numbers": (label("0 .5 .5 .1"), ["line 1", "4 numbers", "class cx cy w h"]),
    "a confidence": (label("0 .5 .5 .1 .1 .9"), ["line 1", "6 numbers"]),
    "two points": (label("0 .5 .5 .1 .1 .2 .2 .3"), ["line 1", "8 numbers"]),
    "NaN": (label("0 .5 nan .1 .1"), ["line 1", "nan"]),
    "infinite": (label("0 .5 .5 inf .1"), ["line 1", "inf"]),
    "class out of range": (label("2 .5 .5 .1 .1"), ["line 1", "class 2", "from 0 to 1"]),
    "class below 0": (label("-1 .5 .5 .1 .1"), ["line 1", "class -1"]),
    "half a class": (label("0.5 .5 .5 .1 .1"), ["line 1", "class 0.5"]),
    "no area": (label("0 .5 .5 0 .1"), ["annotation 1", "c.jpg", "no area"]),
    "binary labels": (
        lambda root: (root / "labels/train/c.txt").write_bytes(b"\xff\xfe"),
        ["c.txt", "not a text file"],
    ),
    "no names": (lambda root: (root / "classes.txt").unlink(), ["names no classes", "obj.names"]),
    "not YAML": (data("names: [cat"), ["data.yaml", "not YAML"]),
    "a YAML list": (data("- cat"), ["data.yaml", "expected names"]),
    "names with a gap": (data("names: {0: cat, 2: dog}"), ["data.yaml", "keys 0, 2"]),
    "a text for names": (data("names: cat"), ["data.yaml", "names is no list"]),
    "another count": (data(f"nc: 3\n{YAML}"), ["data.yaml", "nc is 3", "2"]),
    "no such folder": (data(f"train: nowhere\n{YAML}"), ["data.yaml", "nowhere is not there"]),
    "a map for a split": (data(f"train: {{a: b}}\n{YAML}"), ["data.yaml", "split"]),
    "objects": (data("names: !!python/object/apply:os.getcwd []"), ["data.yaml", "names"]),
    "listed twice": (
        lambda root: (root / "l.txt").write_text("images/train/a.jpg\n" * 2)
        and data(f"train: l.txt\n{YAML}")(root),
        ["a.jpg' twice"],
    ),
    "out of the folder": (
        lambda root: (root / "l.txt").write_text("../a.jpg\n")
        and data(f"train: l.txt\n{YAML}")(root),
        ["'../a.jpg' leads out"],
    ),
    "listed and not there": (
        lambda root: (root / "l.txt").write_text("images/train/z.jpg\n")
        and data(f"train: l.txt\n{YAML}")(root),
        ["z.jpg", "does not exist"],
    ),
    "no image": (
        lambda root: (root / "images/train/c.jpg").write_text("no image"),
        ["c.jpg", "cannot be read"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_named_in_one_line(
    case: str, root: Path, one_line: Callable[[BaseException], str]
) -> None:
    change, words = WRONG[case]
    change(root)
    with pytest.raises(UserError) as caught:
        YoloDataset(root, "train")
    message = one_line(caught.value)
    for word in words:
        assert word in message


def test_no_such_split_and_no_such_folder(root: Path) -> None:
    with pytest.raises(UserError, match="no split 'val'; expected data.yaml, "):
        YoloDataset(root, "val")
    with pytest.raises(UserError, match="nowhere' does not exist; expected a folder in YOLO's"):
        YoloDataset(root / "nowhere", "val")


def test_without_pyyaml_one_line_says_what_to_install(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = builtins.__import__

    def without(name: str, *rest: Any, **more: Any) -> Any:
        if name == "yaml":
            raise ModuleNotFoundError(name="yaml")
        return plain(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    expected(YoloDataset(root, "train"))  # needs none
    (root / "data.yaml").write_text(YAML)
    with pytest.raises(UserError, match=r'pip install "focaldet\[yolo\]"; or name the classes in'):
        YoloDataset(root, "train")


def test_bad_images_and_boxes_are_left_out_on_request(root: Path) -> None:
    (root / "images/train/b.jpg").write_text("no image")
    label("0 .5 .5 0 .1\n0 .5 .5 .1 .1")(root)
    with (
        pytest.warns(SkippedImageWarning, match=r"b\.jpg"),
        pytest.warns(SkippedBoxWarning, match=r"annotation 1 of image '.*c\.jpg'"),
    ):
        dataset = YoloDataset(root, "train", skip_bad_images=True, skip_bad_boxes=True)
    assert [Path(dataset.file_name(i)).name for i in range(len(dataset))] == ["a.jpg", "c.jpg"]
    assert len(dataset[1][1]["boxes"]) == 1


def test_the_same_data_as_in_cocos_form(data_dir: Path, tmp_path: Path) -> None:
    """The validation images of BCCD, written in YOLO's form: the same boxes to a hundredth."""
    folder = data_dir / "bccd"
    coco = CocoDataset(folder / "instances_val.json", folder / "images")
    (tmp_path / "classes.txt").write_text("\n".join(coco.class_names))
    for part in ("images", "labels"):
        (tmp_path / part / "val").mkdir(parents=True)
    table = coco.table
    for row, name in enumerate(table.file_names):
        shutil.copy(folder / "images" / name, tmp_path / "images" / "val")
        height, width = table.sizes[row]
        boxes = table.boxes[table.image_rows == row] / [width, height, width, height]
        labels = table.labels[table.image_rows == row]
        lines = [
            f"{k} {x + w / 2:.6f} {y + h / 2:.6f} {w:.6f} {h:.6f}"
            for k, (x, y, w, h) in zip(labels, boxes, strict=True)
        ]
        (tmp_path / "labels" / "val" / name).with_suffix(".txt").write_text("\n".join(lines))
    yolo = YoloDataset(tmp_path, "val")
    assert yolo.class_names == coco.class_names
    ours, theirs = yolo.table, coco.table
    assert [Path(name).name for name in ours.file_names] == list(theirs.file_names)
    assert (ours.labels == theirs.labels).all() and (ours.image_rows == theirs.image_rows).all()
    assert abs(ours.boxes - theirs.boxes).max() < 0.01
