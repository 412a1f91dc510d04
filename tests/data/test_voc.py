from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from focaldet.data import SkippedBoxWarning, VocDataset
from focaldet.data.flaws import Flaw
from focaldet.data.voc import read_voc
from focaldet.errors import UserError

BOX = "<bndbox><xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax><ymax>{}</ymax></bndbox>"
SIZE = "<size><width>60</width><height>40</height><depth>3</depth></size>"


def thing(name: str, *box: float, difficult: str = "<difficult>0</difficult>") -> str:
    return f"<object><name>{name}</name>{difficult}{BOX.format(*box)}</object>"


def write(root: Path, stem: str, *objects: str, size: str = SIZE, suffix: str = ".jpg") -> Path:
    file = root / "Annotations" / f"{stem}.xml"
    file.write_text(
        f"<annotation><filename>old.jpg</filename>{size}{''.join(objects)}</annotation>"
    )
    Image.new("RGB", (60, 40)).save(root / "JPEGImages" / f"{stem}{suffix}")
    return file


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Images b, a (in this order) in split "train", c in "val"."""
    for folder in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (tmp_path / folder).mkdir(parents=True)
    difficult = "<difficult>1</difficult>"
    write(tmp_path, "a", thing("dog", 1, 2, 30, 40), thing("cat", 5, 5, 9, 9, difficult=difficult))
    write(tmp_path, "b", suffix=".png")
    write(tmp_path, "c", thing("ant", 0, 0, 10.5, 10, difficult=""))
    (tmp_path / "ImageSets/Main/train.txt").write_text("b\na\n")
    (tmp_path / "ImageSets/Main/val.txt").write_text("c\n")
    return tmp_path


def test_corners_are_taken_as_given(root: Path) -> None:
    dataset = VocDataset(root, "train")
    assert len(dataset) == 2
    image, target = dataset[1]
    assert image.shape == (3, 40, 60)
    assert target["boxes"].tolist() == [[1, 2, 30, 40]]
    assert target["image_id"] == 2
    assert dataset[0][1]["boxes"].shape == (0, 4)


def test_labels_are_the_same_in_every_split(root: Path) -> None:
    train, val = VocDataset(root, "train"), VocDataset(root, "val")
    assert train.class_names == val.class_names == ["ant", "cat", "dog"]
    assert train.category_ids == [1, 2, 3]
    assert train[1][1]["labels"].tolist() == [2]
    assert val[0][1]["labels"].tolist() == [0]


def test_given_classes_set_the_order_of_labels(root: Path) -> None:
    dataset = VocDataset(root, "train", classes=["dog", "cat"])
    assert dataset.num_classes == 2
    assert dataset[1][1]["labels"].tolist() == [0]
    with pytest.raises(UserError, match=r"c\.xml: object 1 .* class 'ant'; expected one of dog"):
        VocDataset(root, "val", classes=["dog", "cat"])


def test_difficult_objects_are_crowd(root: Path) -> None:
    annotations = VocDataset(root, "train").to_coco()["annotations"]
    assert [(a["id"], a["image_id"], a["category_id"], a["iscrowd"]) for a in annotations] == [
        (1, 2, 3, 0),
        (2, 2, 2, 1),
    ]
    assert annotations[0]["bbox"] == [1, 2, 29, 38] and annotations[0]["area"] == 29 * 38


def test_names_with_spaces_are_one_name(root: Path) -> None:
    write(root, "a b", thing("dog", 1, 2, 30, 40))
    (root / "ImageSets/Main/train.txt").write_text("a b \r\n\r\na\r\n")
    names = [image["file_name"] for image in VocDataset(root, "train").to_coco()["images"]]
    assert names == ["a b.jpg", "a.jpg"]


def test_a_zero_size_box_is_an_error_unless_skipped(root: Path) -> None:
    """BCCD, as published, has two."""
    write(root, "a", thing("dog", 1, 2, 30, 40), thing("dog", 8, 5, 8, 9))
    with pytest.raises(UserError, match=r"annotation 2 of image 'a\.jpg' .* no area"):
        VocDataset(root, "train")
    with pytest.warns(SkippedBoxWarning, match="1 bad box: annotation 2"):
        dataset = VocDataset(root, "train", skip_bad_boxes=True)
    assert dataset[1][1]["boxes"].tolist() == [[1, 2, 30, 40]]


def test_nested_parts_are_not_objects(root: Path) -> None:
    part = f"<part><name>head</name>{BOX.format(3, 3, 5, 5)}</part>"
    write(root, "a", thing("dog", 1, 2, 30, 40).replace("</object>", f"{part}</object>"))
    assert VocDataset(root, "train").class_names == ["ant", "dog"]


def test_a_data_set_survives_pickling(root: Path) -> None:
    dataset = VocDataset(root, "train")
    assert pickle.loads(pickle.dumps(dataset)).to_coco() == dataset.to_coco()


WRONG = {
    "empty file": ("", r"a\.xml is not XML"),
    "not XML": ("<annotation>", r"a\.xml is not XML"),
    "no size": ("<annotation></annotation>", r"a\.xml: <annotation> has no <size/height>"),
    "size 0": (
        f"<annotation>{SIZE.replace('60', '0')}</annotation>",
        r"a\.xml: <size/width> is 0; expected an integer > 0",
    ),
    "size NaN": (f"<annotation>{SIZE.replace('60', 'nan')}</annotation>", "<size/width> is nan"),
    "no name": (f"<annotation>{SIZE}<object/></annotation>", "<object> has no <name>"),
    "no box": (
        f"<annotation>{SIZE}<object><name>dog</name></object></annotation>",
        "<object> has no <bndbox/xmin>",
    ),
    "a text for a number": (
        f"<annotation>{SIZE}{thing('dog', 1, 2, 3, 4).replace('>1<', '>one<')}</annotation>",
        "<bndbox/xmin> is 'one'; expected a number",
    ),
    "NaN": (f"<annotation>{SIZE}{thing('dog', 1, 2, float('nan'), 4)}</annotation>", "not finite"),
    "entity bomb": (
        '<!DOCTYPE a [<!ENTITY x "xxxxxxxxxx"><!ENTITY y "&x;&x;&x;&x;&x;&x;&x;&x;">]>'
        "<annotation>&y;</annotation>",
        r"a\.xml holds a document type",
    ),
    "external entity": (
        '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><annotation>&x;</annotation>',
        r"a\.xml holds a document type",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_annotations_are_named_in_one_line(
    case: str, root: Path, one_line: Callable[[BaseException], str]
) -> None:
    text, message = WRONG[case]
    (root / "Annotations/a.xml").write_text(text)
    with pytest.raises(UserError, match=message) as caught:
        VocDataset(root, "train")
    one_line(caught.value)


def test_a_document_type_is_found_in_any_encoding(root: Path) -> None:
    text = f'<?xml version="1.0" encoding="utf-16"?><!DOCTYPE a><annotation>{SIZE}</annotation>'
    (root / "Annotations/a.xml").write_bytes(text.encode("utf-16"))
    with pytest.raises(UserError, match="document type"):
        VocDataset(root, "train")


def test_a_check_is_told_of_each_flaw_once(root: Path) -> None:
    broken = root / "Annotations" / "broken.xml"
    broken.write_text("<annotation>")
    with (root / "ImageSets" / "Main" / "train.txt").open("a") as listed:
        listed.write("broken\n")
    told: list[Flaw] = []
    read_voc(root, "train", None, told.append)
    assert [flaw.check for flaw in told] == ["annotation-file"]


def test_wrong_lists_are_named(root: Path) -> None:
    listing = root / "ImageSets/Main/train.txt"
    with pytest.raises(UserError, match=r"test\.txt' cannot be opened"):
        VocDataset(root, "test")
    for text, message in {
        "a\nb\na\n": "lists 'a' twice",
        "../a\n": "leads out",
        "d\n": r"d\.xml' cannot be opened",
        "": "no images",
        "b\n": "no boxes",
    }.items():
        listing.write_text(text)
        with pytest.raises(UserError, match=message):
            VocDataset(root, "train")


def test_a_missing_image_is_named(root: Path) -> None:
    (root / "JPEGImages/a.jpg").unlink()
    with pytest.raises(UserError, match=r"'a\.jpg' of .*train\.txt is not in .*JPEGImages"):
        VocDataset(root, "train")
