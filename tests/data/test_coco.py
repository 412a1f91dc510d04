from __future__ import annotations

import copy
import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from focaldet.data import CocoDataset, ImageError, Resize, SkippedBoxWarning, SkippedImageWarning
from focaldet.errors import UserError


def as_pycocotools(content: dict[str, Any]) -> COCO:
    coco = COCO()
    coco.dataset = content
    coco.createIndex()
    return coco


# Reading


def test_labels_are_contiguous_by_ascending_category_id(coco: SimpleNamespace) -> None:
    dataset = coco.load()
    assert dataset.class_names == ["zero", "five"]
    assert dataset.category_ids == [0, 5]
    assert dataset.num_classes == 2


def test_items_have_the_documented_form(coco: SimpleNamespace) -> None:
    dataset = coco.load()
    assert len(dataset) == 3

    image, target = dataset[0]
    assert image.dtype == torch.float32 and image.shape == (3, 40, 60)
    assert 0 <= image.min() and image.max() <= 1
    assert target["boxes"].tolist() == [[0.5, 1.25, 11, 9.25]]
    assert target["boxes"].dtype == torch.float32 and target["labels"].dtype == torch.int64
    assert target["labels"].tolist() == [0]
    assert target["image_id"] == 0
    assert target["original_size"] == target["size"] == (40, 60)


def test_crowd_is_left_out_of_targets_and_kept_in_to_coco(coco: SimpleNamespace) -> None:
    dataset = coco.load()
    _, target = dataset[1]
    assert target["boxes"].tolist() == [[10, 5, 30, 35], [30, 10, 35, 15]]
    assert target["labels"].tolist() == [1, 0]
    crowd = [entry["bbox"] for entry in dataset.to_coco()["annotations"] if entry["iscrowd"]]
    assert crowd == [[0, 0, 60, 40]]


def test_an_image_without_boxes_is_an_ordinary_item(coco: SimpleNamespace) -> None:
    _, target = coco.load()[2]
    assert target["image_id"] == 3
    assert target["boxes"].shape == (0, 4) and target["labels"].shape == (0,)


def test_boxes_follow_the_transform(coco: SimpleNamespace) -> None:
    def transform(image: Any, boxes: torch.Tensor, generator: torch.Generator) -> Any:
        image, boxes = Resize(20, 30)(image, boxes, generator)
        return torch.zeros(3, image.height, image.width), boxes

    _, target = coco.load(transform=transform)[1]
    assert target["boxes"].tolist() == [[5, 2.5, 15, 17.5], [15, 5, 17.5, 7.5]]
    assert target["original_size"] == (40, 60) and target["size"] == (20, 30)


def test_a_box_over_the_edge_is_cut_in_targets_and_kept_in_to_coco(coco: SimpleNamespace) -> None:
    coco.content["annotations"][1]["bbox"] = [-3, 35, 20, 5.01]
    dataset = coco.load()
    assert dataset[0][1]["boxes"].tolist() == [[0, 35, 17, 40]]
    assert dataset.to_coco()["annotations"][0]["bbox"] == [-3, 35, 20, 5.01]


def test_changing_a_target_does_not_change_the_data_set(coco: SimpleNamespace) -> None:
    dataset = coco.load()
    target = dataset[1][1]
    target["boxes"] += 5
    target["labels"] += 1
    assert dataset[1][1]["boxes"][0].tolist() == [10, 5, 30, 35]
    assert dataset[1][1]["labels"].tolist() == [1, 0]


def test_indices_count_from_the_end_and_stop(coco: SimpleNamespace) -> None:
    dataset = coco.load()
    assert dataset[-1][1]["image_id"] == 3
    assert [target["image_id"] for _, target in dataset] == [0, 7, 3]  # IndexError ends it


def test_a_data_set_survives_pickling(coco: SimpleNamespace) -> None:
    """Worker processes that are not forked receive it so."""
    dataset = coco.load()
    copied = pickle.loads(pickle.dumps(dataset))
    assert torch.equal(copied[1][0], dataset[1][0])
    assert copied.to_coco() == dataset.to_coco()


def test_byte_order_mark_and_subfolders_are_read(coco: SimpleNamespace) -> None:
    (coco.folder / "sub").mkdir()
    (coco.folder / "0.png").rename(coco.folder / "sub" / "0.png")
    coco.content["images"][0]["file_name"] = "sub/0.png"
    coco.file.write_text(json.dumps(coco.content), encoding="utf-8-sig")
    assert CocoDataset(coco.file, coco.folder)[0][1]["image_id"] == 0


# Evaluation


def test_to_coco_scores_a_perfect_detector_with_1(coco: SimpleNamespace) -> None:
    """With the file's own ids it would not: pycocotools counts a ground truth of id 0 as missed."""
    truth = coco.load().to_coco()
    assert [entry["id"] for entry in truth["annotations"]] == [1, 2, 3, 4]
    detections = [
        {key: entry[key] for key in ("image_id", "category_id", "bbox")} | {"score": 0.9}
        for entry in truth["annotations"]
        if not entry["iscrowd"]
    ]
    ground = as_pycocotools(truth)
    evaluation = COCOeval(ground, ground.loadRes(detections), "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    assert evaluation.stats[0] == pytest.approx(1.0)


def test_to_coco_keeps_areas_and_fills_in_missing_ones(coco: SimpleNamespace) -> None:
    areas = {tuple(a["bbox"]): a["area"] for a in coco.load().to_coco()["annotations"]}
    assert areas[0.5, 1.25, 10.5, 8] == 40.5
    assert areas[10, 5, 20, 30] == 600


def test_to_coco_is_a_fixed_point(coco: SimpleNamespace) -> None:
    first = coco.load().to_coco()
    coco.content.clear()
    coco.content.update(copy.deepcopy(first))
    assert coco.load().to_coco() == first


# Wrong files. Each entry: what is done to the content, what the message must hold.

Change = Callable[[dict[str, Any]], Any]
WRONG: dict[str, tuple[Change, list[str]]] = {
    "no images": (lambda c: c["images"].clear() or c["annotations"].clear(), ["no images"]),
    "no boxes": (lambda c: c["annotations"].clear(), ["no boxes"]),
    "section missing": (lambda c: c.pop("categories"), ["'categories'", "expected"]),
    "section of another type": (lambda c: c.update(images={}), ["'images'", "expected"]),
    "entry of another type": (lambda c: c["images"].append(5), ["images[3]", "is 5"]),
    "image without id": (lambda c: c["images"][1].pop("id"), ["images[1]", "'id'"]),
    "image without width": (lambda c: c["images"][1].pop("width"), ["image 7", "'width'"]),
    "height 0": (lambda c: c["images"][1].update(height=0), ["image 7", "'height'", "0"]),
    "width a text": (lambda c: c["images"][1].update(width="60"), ["image 7", '"60"']),
    "no file name": (lambda c: c["images"][1].update(file_name=""), ["image 7", "'file_name'"]),
    "image id twice": (lambda c: c["images"][1].update(id=0), ["image 0", "twice"]),
    "category id twice": (lambda c: c["categories"][1].update(id=5), ["category 5", "twice"]),
    "category without name": (lambda c: c["categories"][1].pop("name"), ["category 0", "'name'"]),
    "annotation id twice": (lambda c: c["annotations"][3].update(id=4), ["annotation 4", "twice"]),
    "annotation id a bool": (lambda c: c["annotations"][3].update(id=True), ["annotations[3]"]),
    "annotation id too large": (
        lambda c: c["annotations"][3].update(id=10**30),
        ["annotations[3]", "integer"],
    ),
    "unknown category": (
        lambda c: c["annotations"][3].update(category_id=1),
        ["annotation 9", "'category_id' is 1", "categories"],
    ),
    "unknown image": (
        lambda c: c["annotations"][3].update(image_id=1),
        ["annotation 9", "'image_id' is 1", "images"],
    ),
    "image id a list": (lambda c: c["annotations"][3].update(image_id=[7]), ["annotation 9"]),
    "no box": (lambda c: c["annotations"][3].pop("bbox"), ["annotation 9", "'bbox'"]),
    "three numbers": (lambda c: c["annotations"][3].update(bbox=[1, 2, 3]), ["annotation 9"]),
    "five numbers": (lambda c: c["annotations"][3].update(bbox=[1, 2, 3, 4, 5]), ["annotation 9"]),
    "texts": (lambda c: c["annotations"][3].update(bbox=["1", "2", "3", "4"]), ["annotation 9"]),
    "null": (lambda c: c["annotations"][3].update(bbox=[1, 2, None, 4]), ["annotation 9"]),
    "crowd 2": (lambda c: c["annotations"][3].update(iscrowd=2), ["annotation 9", "'iscrowd'"]),
    "area below 0": (lambda c: c["annotations"][3].update(area=-1), ["annotation 9", "'area'"]),
    "area NaN": (lambda c: c["annotations"][3].update(area=np.nan), ["annotation 9", "'area'"]),
    "name ..": (lambda c: c["images"][1].update(file_name="../7.png"), ["'../7.png'", "out"]),
    "name a/../..": (lambda c: c["images"][1].update(file_name="a/../../7.png"), ["out"]),
    "absolute name": (lambda c: c["images"][1].update(file_name="/etc/passwd"), ["/etc/passwd"]),
    "null byte": (lambda c: c["images"][1].update(file_name="a\0.png"), ["out of"]),
    "line break": (lambda c: c["images"][1].update(file_name="a\nb.png"), [r"'a\nb.png'"]),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_content_is_named_in_one_line(
    case: str, coco: SimpleNamespace, one_line: Callable[[BaseException], str]
) -> None:
    change, words = WRONG[case]
    change(coco.content)
    with pytest.raises(UserError) as caught:
        coco.load()
    message = one_line(caught.value)
    for word in words:
        assert word in message


BAD_BOXES = {
    "no width": ([30, 10, 0, 5], "no area"),
    "negative height": ([30, 10, 5, -5], "no area"),
    "vanishing in float32": ([30, 10, 1e-9, 5], "no area"),
    "right of the image": ([60, 10, 5, 5], "outside"),
    "above the image": ([30, -10, 5, 10], "outside"),
    "NaN": ([30, np.nan, 5, 5], "not finite"),
    "infinite": ([30, 10, np.inf, 5], "not finite"),
    "beyond float32": ([30, 10, 1e300, 5], "not finite"),
}


@pytest.mark.parametrize("case", BAD_BOXES)
def test_a_bad_box_is_named_with_its_annotation_image_and_problem(
    case: str, coco: SimpleNamespace, one_line: Callable[[BaseException], str]
) -> None:
    box, problem = BAD_BOXES[case]
    coco.content["annotations"][3]["bbox"] = box
    with pytest.raises(UserError) as caught:
        coco.load()
    message = one_line(caught.value)
    for word in ("instances.json", "annotation 9", "'7.png'", "60 x 40", problem, "expected"):
        assert word in message


def test_bad_boxes_are_left_out_on_request_and_named(coco: SimpleNamespace) -> None:
    coco.content["annotations"][0]["bbox"] = [10, 5, 0, 30]
    coco.content["annotations"][3]["bbox"] = [90, 5, 10, 30]
    with pytest.warns(SkippedBoxWarning, match=r"2 bad boxes.*annotation 0 .*annotation 9 "):
        dataset = coco.load(skip_bad_boxes=True)
    assert len(dataset) == 3
    assert dataset[1][1]["boxes"].shape == (0, 4)
    assert len(dataset.to_coco()["annotations"]) == 2


@pytest.mark.parametrize("text", ["", "{", "[1, 2", "\x00", "{'a': 1}", "[" * 100_000])
def test_what_is_not_json_is_refused(
    text: str, coco: SimpleNamespace, one_line: Callable[[BaseException], str]
) -> None:
    coco.file.write_text(text)
    with pytest.raises(UserError) as caught:
        CocoDataset(coco.file, coco.folder)
    assert "instances.json" in one_line(caught.value) and "not JSON" in str(caught.value)


def test_a_detection_list_is_not_taken_for_annotations(coco: SimpleNamespace) -> None:
    coco.file.write_text("[" + ", ".join(['{"image_id": 1, "score": 0.5}'] * 9) + "]")
    with pytest.raises(UserError, match="expected a JSON object with the lists images"):
        CocoDataset(coco.file, coco.folder)


def test_binary_missing_and_folder_in_the_place_of_the_file(coco: SimpleNamespace) -> None:
    coco.file.write_bytes(b"\x80\xff\xfe")
    with pytest.raises(UserError, match="not JSON"):
        CocoDataset(coco.file, coco.folder)
    with pytest.raises(UserError, match=r"nowhere\.json.* cannot be opened"):
        CocoDataset(coco.file.with_name("nowhere.json"), coco.folder)
    with pytest.raises(UserError, match="cannot be opened"):
        CocoDataset(coco.folder, coco.folder)


# Image files


def test_a_missing_folder_or_file_is_named_at_once(coco: SimpleNamespace) -> None:
    coco.load()
    with pytest.raises(UserError, match=r"image folder '.*nowhere' does not exist"):
        CocoDataset(coco.file, coco.folder / "nowhere")
    (coco.folder / "7.png").unlink()
    with pytest.raises(ImageError, match=r"'7\.png' .*1 of 3 are missing"):
        coco.load()


def test_an_absolute_name_is_refused_even_inside(coco: SimpleNamespace) -> None:
    coco.content["images"][1]["file_name"] = str(coco.folder / "7.png")
    with pytest.raises(UserError, match="leads out"):
        coco.load()


def test_a_link_out_of_the_folder_is_refused_and_one_inside_is_not(
    coco: SimpleNamespace, tmp_path: Path
) -> None:
    inside = coco.folder / "7.png"
    outside = tmp_path / "secret.png"
    inside.rename(coco.folder / "real.png")
    os.symlink("real.png", inside)
    assert coco.load()[1][1]["image_id"] == 7

    (coco.folder / "real.png").rename(outside)
    inside.unlink()
    os.symlink(outside, inside)
    for skip in (False, True):
        with pytest.raises(UserError, match=r"'7\.png' leads out"):
            coco.load(skip_bad_images=skip)


def test_the_folder_itself_may_be_a_link(coco: SimpleNamespace, tmp_path: Path) -> None:
    coco.load()
    os.symlink(coco.folder, tmp_path / "link")
    assert CocoDataset(coco.file, tmp_path / "link")[1][1]["image_id"] == 7


def test_a_corrupt_image_is_named_when_it_is_read(
    coco: SimpleNamespace, one_line: Callable[[BaseException], str]
) -> None:
    dataset = coco.load()
    path = coco.folder / "7.png"
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(ImageError) as caught:
        dataset[1]
    assert "7.png" in one_line(caught.value)


def test_an_image_of_another_size_is_named(coco: SimpleNamespace) -> None:
    coco.image("7.png", width=61)
    with pytest.raises(ImageError, match=r"7\.png' is 61 x 40 .* for 60 x 40"):
        coco.load()[1]


def test_a_bad_image_is_replaced_by_the_next_and_named_once(coco: SimpleNamespace) -> None:
    (coco.folder / "7.png").write_text("not an image")
    (coco.folder / "3.png").unlink()
    dataset = coco.load(skip_bad_images=True)
    with pytest.warns(SkippedImageWarning) as record:
        items = [dataset[index] for index in (0, 1, 2, 1, 2)]
    assert [target["image_id"] for _, target in items] == [0] * 5
    assert len(record) == 2 and len(dataset.skipped) == 2
    assert "7.png" in dataset.skipped[1] and "3.png" in dataset.skipped[2]


def test_no_readable_image_at_all_is_an_error(coco: SimpleNamespace) -> None:
    for path in coco.folder.iterdir():
        path.write_text("")
    dataset = coco.load(skip_bad_images=True)
    with pytest.warns(SkippedImageWarning), pytest.raises(UserError, match="none of the 3 images"):
        dataset[0]


# Real data


@pytest.mark.parametrize("split, images, boxes", [("train", 205, 2804), ("val", 87, 1137)])
def test_bccd_is_read_in_full(split: str, images: int, boxes: int) -> None:
    if "FOCALDET_DATA" not in os.environ:
        pytest.skip("FOCALDET_DATA is not set: the folder with bccd/")
    folder = Path(os.environ["FOCALDET_DATA"], "bccd")
    dataset = CocoDataset(folder / f"instances_{split}.json", folder / "images")
    assert len(dataset) == images
    assert dataset.class_names == ["RBC", "WBC", "Platelets"]
    assert len(dataset.to_coco()["annotations"]) == boxes
    image, target = dataset[0]
    assert image.shape == (3, 480, 640) and len(target["boxes"]) > 0
