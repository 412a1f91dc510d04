"""Every check, on a data set that it alone has something to say of, and on a clean one."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from focaldet import AnchorGrid
from focaldet.check import CHECKS, Detector, Report, check_data
from focaldet.data import Resize
from focaldet.data.folder import splits

Change = Callable[[Any], Any]
DETECTOR_CASES = ("image-over-detected", "anchor-recall")
YOLO_CASES = ("image-listed-twice", "image-without-size")


def first(**fields: Any) -> Change:
    """The first annotation to train on with other fields."""
    return lambda made: made.train["annotations"][0].update(fields)


def another(bbox: list[float], category: int = 1) -> Change:
    """One more box on image 1, whose first is [4, 4, 24, 24] of class 1."""
    return lambda made: made.box(made.train, 1, bbox, category)


def alone(bbox: list[float]) -> Change:
    """Image 3 with this box only."""

    def change(made: Any) -> None:
        kept = [box for box in made.train["annotations"] if box["image_id"] != 3]
        made.train["annotations"] = kept
        made.box(made.train, 3, bbox, 1)

    return change


def both(**fields: Any) -> Change:
    """The second class of both splits."""
    return lambda made: [part["categories"][1].update(fields) for part in (made.train, made.val)]


def named(part: str, name: str) -> Change:
    """The last image of a split under another file name, without its own file."""

    def change(made: Any) -> None:
        image = getattr(made, part)["images"][-1]
        (made.images / image["file_name"]).unlink()
        image["file_name"] = name

    return change


def copied(source: str, target: str) -> Change:
    return lambda made: shutil.copy(made.images / source, made.images / target)


def saved(name: str, seed: int, **how: Any) -> Change:
    return lambda made: made.picture(name, seed, **how)


def all_of(*changes: Change) -> Change:
    return lambda made: [change(made) for change in changes]


def of_class(part: str, image_id: int | None, category: int) -> Change:
    """All boxes of an image, or of a split, get a class."""

    def change(made: Any) -> None:
        for box in getattr(made, part)["annotations"]:
            if image_id in (None, box["image_id"]):
                box["category_id"] = category

    return change


def without_boxes(part: str, image_id: int) -> Change:
    def change(made: Any) -> None:
        content = getattr(made, part)
        content["annotations"] = [b for b in content["annotations"] if b["image_id"] != image_id]

    return change


def turned(made: Any) -> None:
    exif = Image.Exif()
    exif[0x112] = 3
    made.picture("1.jpg", 1, exif=exif)


def imbalanced(made: Any) -> None:
    for number in range(4, 44):
        made.add(made.train, number)
        of_class("train", number, 1)(made)


def crowded(made: Any) -> None:
    without_boxes("train", 3)(made)
    for number in range(17 * 9):
        x, y = 4 + 8 * (number % 17), 4 + 16 * (number // 17)
        made.box(made.train, 3, [x, y, 24, 24], 1 + number % 2)


def cut_off(made: Any) -> None:
    file = made.images / "1.jpg"
    file.write_bytes(file.read_bytes()[:-800])


def no_val(made: Any) -> None:
    made.val = None
    (made.images / "101.jpg").unlink()


def no_images(made: Any) -> None:
    made.val["images"], made.val["annotations"] = [], []
    (made.images / "101.jpg").unlink()


CASES: dict[str, Change] = {
    "annotation-file": lambda made: made.__dict__.update(val="not a dict"),
    "entry-form": first(area="large"),
    "box-form": first(bbox=[1, 2, 3]),
    "id-twice": first(id=2),
    "unknown-image": first(image_id=999),
    "unknown-class": first(category_id=999),
    "area-over-box": first(area=1000),
    "image-missing": lambda made: (made.images / "1.jpg").unlink(),
    "image-unreadable": lambda made: (made.images / "1.jpg").write_text("no image"),
    "image-truncated": cut_off,
    "image-size-differs": saved("1.jpg", 1, size=(161, 160)),
    "name-leads-out": named("train", "../3.jpg"),
    "image-exif-orientation": turned,
    "image-mode": saved("1.jpg", 1, mode="L"),
    "image-unreferenced": saved("other.jpg", 5),
    "image-twice": copied("1.jpg", "2.jpg"),
    "image-leak": copied("1.jpg", "101.jpg"),
    "image-near-duplicate": saved("101.jpg", 1, quality=60),
    "image-name-twice": named("train", "1.jpg"),
    "image-name-case": all_of(
        named("train", "a.JPG"), saved("a.JPG", 7), named("val", "A.jpg"), saved("A.jpg", 8)
    ),
    "box-not-finite": first(bbox=[4, float("nan"), 24, 24]),
    "box-without-area": first(bbox=[4, 4, 0, 24]),
    "box-outside-image": first(bbox=[200, 4, 24, 24]),
    "box-over-edge": first(bbox=[-4, 4, 32, 24]),
    "box-whole-image": alone([0, 0, 160, 160]),
    "box-tiny": first(bbox=[4, 4, 3, 3]),
    "box-long": alone([8, 8, 120, 10]),
    "crowd": first(iscrowd=1),
    "box-twice": another([4, 4, 24, 24]),
    "box-two-classes": another([4, 4, 24, 24], 2),
    "box-overlap": another([5, 4, 24, 24]),
    "box-nested": another([8, 8, 16, 16]),
    "class-unused": lambda made: [
        part["categories"].append({"id": 3, "name": "c"}) for part in (made.train, made.val)
    ],
    "class-missing-in-split": of_class("val", None, 1),
    "class-rare": all_of(of_class("train", 1, 1), of_class("train", 2, 1)),
    "class-imbalance": imbalanced,
    "class-name-twice": both(name="A"),
    "class-name-spaces": both(name="b "),
    "classes-differ": lambda made: made.val["categories"][1].update(name="c"),
    "split-missing": no_val,
    "split-without-images": no_images,
    "split-without-boxes": lambda made: made.val["annotations"].clear(),
    "image-without-boxes": without_boxes("train", 3),
    "image-over-scored": crowded,
    "image-in-two-splits": named("val", "1.jpg"),
    "id-in-two-splits": lambda made: [
        made.val["images"][0].update(id=1),
        [box.update(image_id=1) for box in made.val["annotations"]],
    ],
    "box-far-from-anchors": first(bbox=[4, 4, 4, 13]),
}


def failed(report: Report) -> set[str]:
    return {name for name, found in report.findings.items() if found}


def placed(report: Report, name: str) -> list[tuple[str | None, int | None]]:
    return [(finding.file, finding.annotation) for finding in report.findings[name]]


def test_a_clean_data_set(made: Any) -> None:
    report = made.check()
    assert failed(report) == set() and not report.has_errors
    assert report.findings.keys() == CHECKS.keys()


@pytest.mark.parametrize("name", CASES)
def test_a_check_finds_what_it_is_for_and_no_other_does(name: str, made: Any) -> None:
    CASES[name](made)
    report = made.check()
    assert failed(report) == {name}
    assert report.has_errors == (CHECKS[name].severity == "error")
    for finding in report.findings[name]:
        assert str(finding) and "\n" not in str(finding)


def test_what_depends_on_the_detector(made: Any, detector: Detector) -> None:
    few = made.check(replace(detector, detections=19))
    assert failed(few) == {"image-over-detected"} and len(few.findings["image-over-detected"]) == 4
    grid = AnchorGrid.torchvision([40, 80, 160, 320, 640])
    assert failed(made.check(replace(detector, grid=grid))) == {"anchor-recall"}
    half = made.check(replace(detector, resize=Resize(20, 20)))
    assert "box-tiny" in failed(half)


def yolo(folder: Path, made: Any) -> Path:
    """The same images and boxes in YOLO's form."""
    for part in ("train", "val"):
        content = getattr(made, part)
        for kind in ("images", "labels"):
            (folder / kind / part).mkdir(parents=True)
        names = {image["id"]: image["file_name"] for image in content["images"]}
        for name in names.values():
            shutil.copy(made.images / name, folder / "images" / part / name)
        for box in content["annotations"]:
            x, y, w, h = (value / 160 for value in box["bbox"])
            file = folder / "labels" / part / names[box["image_id"]].replace("jpg", "txt")
            with file.open("a") as lines:
                lines.write(f"{box['category_id'] - 1} {x + w / 2} {y + h / 2} {w} {h}\n")
    (folder / "classes.txt").write_text("a\nb\n")
    return folder


def test_what_only_lists_can_have(made: Any, detector: Detector, tmp_path: Path) -> None:
    folder = yolo(tmp_path / "yolo", made)
    assert failed(check_data(splits(folder), detector)) == set()

    lists = [f"images/train/{n}.jpg" for n in (1, 2, 3)]
    (folder / "data.yaml").write_text("names: [a, b]\ntrain: list.txt\nval: images/val\n")
    (folder / "list.txt").write_text("\n".join([*lists, lists[0]]))
    report = check_data(splits(folder), detector)
    assert failed(report) == {"image-listed-twice"}
    assert placed(report, "image-listed-twice") == [("images/train/1.jpg", None)]

    (folder / "list.txt").write_text("\n".join([*lists, "images/train/4.jpg"]))
    report = check_data(splits(folder), detector)
    assert failed(report) == {"image-without-size"}
    assert placed(report, "image-without-size") == [("images/train/4.jpg", None)]


def test_flaws_in_yolos_lines_are_all_found(made: Any, detector: Detector, tmp_path: Path) -> None:
    folder = yolo(tmp_path / "yolo", made)
    lines = folder / "labels/train/1.txt"
    lines.write_text(lines.read_text() + "0 30 20 10 10\n7 .5 .5 .1 .1\nx\n")
    (folder / "labels/train/2.txt").write_bytes(b"\xff\xfe")
    report = check_data(splits(folder), detector)
    assert failed(report) == {"box-form", "unknown-class", "annotation-file", "image-without-boxes"}
    assert placed(report, "annotation-file") == [("images/train/2.jpg", None)]
    assert [f.text.split(": ")[1] for f in report.findings["box-form"]] == ["line 21", "line 23"]
    assert placed(report, "box-form") == [("images/train/1.jpg", 21), ("images/train/1.jpg", 23)]
    assert placed(report, "unknown-class") == [("images/train/1.jpg", 22)]


def test_flaws_in_vocs_files_are_placed(detector: Detector, tmp_path: Path) -> None:
    for name in ("Annotations", "ImageSets/Main", "JPEGImages"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "ImageSets/Main/train.txt").write_text("a\nb\na\n")
    Image.new("RGB", (64, 64)).save(tmp_path / "JPEGImages/a.png")
    thing = "<object><name>{}</name><bndbox>{}</bndbox></object>"
    corners = "<xmin>1</xmin><ymin>2</ymin><xmax>{}</xmax><ymax>9</ymax>"
    things = [
        thing.format("x", corners.format(9)),
        thing.format("x", corners.format("wide")),
        thing.format("x", corners.format("inf")),
        thing.format("", corners.format(9)),
    ]
    size = "<size><width>64</width><height>64</height></size>"
    xml = f"<annotation>{size}{''.join(things)}</annotation>"
    (tmp_path / "Annotations/a.xml").write_text(xml)
    (tmp_path / "Annotations/b.xml").write_text("<annotation>")
    report = check_data(splits(tmp_path), detector, with_images=False)
    assert placed(report, "box-form") == [("a.png", 2)]
    assert placed(report, "box-not-finite") == [("a.png", 3)]
    assert placed(report, "entry-form") == [("a.png", 4)]
    assert placed(report, "annotation-file") == [("b.jpg", None)]
    assert placed(report, "image-listed-twice") == [("a.png", None)]


def test_every_check_has_a_case() -> None:
    assert {*CASES, *DETECTOR_CASES, *YOLO_CASES} == CHECKS.keys() and len(CHECKS) >= 30


def test_image_files_may_be_left_unread(made: Any) -> None:
    for file in made.images.iterdir():
        file.unlink()
    report = made.check(with_images=False)
    assert failed(report) == set()
    assert len(report.findings) == sum(not check.reads_images for check in CHECKS.values()) < 51


def test_many_flaws_at_once_are_all_told(made: Any) -> None:
    boxes = made.train["annotations"]
    boxes[0]["bbox"], boxes[1]["image_id"], boxes[2]["id"] = None, 999, "three"
    boxes.append(5)
    made.train["images"][2]["height"] = 0
    report = made.check()
    assert {"entry-form", "box-form", "unknown-image"} <= failed(report)
    assert len(report.findings["entry-form"]) == 3  # two annotations, an image
    assert report.facts["train"]["images"] == 2 and report.facts["train"]["boxes"] == 37
    assert placed(report, "box-form") == [("1.jpg", boxes[0]["id"])]
    assert placed(report, "unknown-image") == [(None, boxes[1]["id"])]
    assert ("3.jpg", None) in placed(report, "entry-form")
    (said,) = map(str, report.findings["box-form"])
    assert said.startswith("train: ") and said.count("annotation 1") == 1


def test_of_two_images_with_an_id_the_first_has_its_boxes(made: Any) -> None:
    made.train["images"][1]["id"] = 1
    made.train["annotations"][5]["bbox"] = "here"
    report = made.check()
    assert placed(report, "box-form") == [("1.jpg", 6)]


def test_the_counts_are_of_what_is_learned(made: Any) -> None:
    boxes = made.train["annotations"]
    boxes[0]["iscrowd"], boxes[1]["bbox"] = 1, [4, 4, 0, 24]
    report = made.check()
    facts = report.facts["train"]
    assert (facts["boxes"], facts["crowd_regions"], facts["most_boxes"]) == (58, 1, 20)
    assert facts["boxes_per_image"] == pytest.approx(58 / 3)
    assert report.classes == {"a": {"train": 29, "val": 10}, "b": {"train": 29, "val": 10}}
    assert "58 boxes of 2 classes; 19.3 an image, at most 20; 0 images without; 1 crowd" in (
        report.text()
    )
    assert "  b                          29 in train       10 in val" in report.text()
    assert "more class" not in report.text()
    for part in (made.train, made.val):
        part["categories"] += [{"id": i, "name": f"c{i}"} for i in range(3, 24)]
    text = made.check().text()
    assert "\n  c20 " in text and "\n  c21 " not in text and "\n  and 3 more classes\n" in text


def test_copies_are_told_in_each_split_and_between_them(made: Any) -> None:
    made.add(made.val, 102)
    for name in ("101.jpg", "102.jpg"):
        shutil.copy(made.images / "1.jpg", made.images / name)
    found = made.check().findings
    assert [finding.split for finding in found["image-twice"]] == ["val"]
    assert len(found["image-leak"]) == 2
