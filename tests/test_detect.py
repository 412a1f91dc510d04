"""Boxes come back in the original's pixels; outputs are named apart; inputs are left alone."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path, PurePath
from typing import Any

import pytest
import torch
from noise import noise
from PIL import ExifTags, Image
from torch import Tensor

import focaldet.detect
from focaldet.checkpoint import Description, save_checkpoint
from focaldet.data import eval_transform
from focaldet.detect import alike, detect, detect_batch, find_images, picture_names
from focaldet.errors import UserError
from focaldet.models import RetinaNet


@pytest.fixture
def model() -> RetinaNet:
    torch.manual_seed(0)
    model = RetinaNet(
        2,
        "resnet18",
        width=16,
        fpn_channels=16,
        head_depth=1,
        min_size=64,
        max_size=64,
        score_thresh=0.0,
        detections_per_img=5,
    )
    return model.eval()


@pytest.fixture
def weights(model: RetinaNet, tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    save_checkpoint(path, model.state_dict(), Description(model.config, ["ant", "bee"], [3, 9]))
    return path


def picture(path: Path, size: tuple[int, int] = (96, 48), colour: str = "red") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)
    return path


def test_boxes_are_in_pixels_of_the_original(model: RetinaNet) -> None:
    original = noise((192, 96), 60)
    image, _ = eval_transform(64)(original, torch.zeros(0, 4), torch.Generator())
    (small,) = model([image])
    (found,) = detect_batch(model, [image], [(96, 192)])
    assert len(found["boxes"]) == 5
    torch.testing.assert_close(found["boxes"], small["boxes"] * 3)


def test_pictures_and_json(weights: Path, tmp_path: Path) -> None:
    a = picture(tmp_path / "a" / "photo.png")
    b = picture(tmp_path / "b" / "photo.jpg", (50, 80))
    picture(tmp_path / "c" / "deep" / "photo.jpg")
    before = {p: p.read_bytes() for p in tmp_path.rglob("photo.*")}

    written = detect([a, b, tmp_path / "c"], weights, tmp_path / "out", score_threshold=0.0)

    records = json.loads(written.read_text())
    assert [r["picture"] for r in records] == ["photo.jpg", "photo-2.jpg", "deep/photo.jpg"]
    assert [(r["width"], r["height"]) for r in records] == [(96, 48), (50, 80), (96, 48)]
    for record in records:
        with Image.open(tmp_path / "out" / record["picture"]) as drawn:
            assert drawn.size == (record["width"], record["height"])
        assert len(record["detections"]) == 5
        for found in record["detections"]:
            x, y, width, height = found["bbox"]
            assert 0 <= x <= x + width <= record["width"] + 1e-3
            assert 0 <= y <= y + height <= record["height"] + 1e-3
            assert (found["name"], found["category_id"]) in [("ant", 3), ("bee", 9)]
            assert 0 < found["score"] < 1
    assert {p: p.read_bytes() for p in before} == before
    assert len(list(tmp_path.rglob("photo*.*"))) == 6, "nothing beside the inputs"


def test_images_are_resized_once_to_what_the_model_takes(
    model: RetinaNet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its shortest side, for a model that was trained so elsewhere: not first its longest."""
    config = model.config | {"min_size": 64, "max_size": 128}
    weights, given = tmp_path / "model.safetensors", []
    save_checkpoint(weights, model.state_dict(), Description(config, ["ant", "bee"], [3, 9]))
    plain = focaldet.detect.detect_batch

    def recorded(model: RetinaNet, images: list[Tensor], sizes: Any) -> Any:
        given.extend(tuple(image.shape[1:]) for image in images)
        return plain(model, images, sizes)

    monkeypatch.setattr(focaldet.detect, "detect_batch", recorded)
    files = [picture(tmp_path / f"{w}.png", (w, 40)) for w in (50, 160)]
    detect(files, weights, tmp_path / "out", 0.0)
    assert given == [(64, 80), (32, 128)]


def test_the_score_threshold_is_applied(weights: Path, tmp_path: Path) -> None:
    written = detect([picture(tmp_path / "x.png")], weights, tmp_path / "out", 0.9)
    assert json.loads(written.read_text())[0]["detections"] == []


def test_exif_orientation_is_applied(weights: Path, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6  # stored lying on its side
    Image.new("RGB", (96, 48)).save(tmp_path / "turned.jpg", exif=exif)
    written = detect([tmp_path / "turned.jpg"], weights, tmp_path / "out")
    (record,) = json.loads(written.read_text())
    assert (record["width"], record["height"]) == (48, 96)
    with Image.open(tmp_path / "out" / "turned.jpg") as drawn:
        assert drawn.size == (48, 96) and not drawn.getexif()


def test_an_output_folder_with_anything_in_it_is_refused(weights: Path, tmp_path: Path) -> None:
    photo = picture(tmp_path / "photos" / "x.png")
    with pytest.raises(UserError, match="expected a new or an empty folder"):
        detect([photo], weights, photo.parent)
    with pytest.raises(UserError, match="cannot be made a folder"):
        detect([photo], weights, photo)
    assert [p.name for p in photo.parent.iterdir()] == ["x.png"]


def test_bad_images_are_named_after_the_others_are_done(weights: Path, tmp_path: Path) -> None:
    picture(tmp_path / "in" / "good.png")
    (tmp_path / "in" / "bad.jpg").write_bytes(b"no image")
    with pytest.raises(UserError, match=r"bad\.jpg.* \(1 of 2 images are bad\)"):
        detect([tmp_path / "in"], weights, tmp_path / "out")
    assert (tmp_path / "out" / "good.jpg").is_file()
    assert len(json.loads((tmp_path / "out" / "detections.json").read_text())) == 1


def test_images_of_one_padded_size_are_detected_together(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the order of the files, with what each gives alone, and without an unreadable one."""
    sizes = [(96, 48), (48, 96), (64, 64), (90, 48), (96, 50), (128, 60), (50, 96), (96, 96)]
    for i, size in enumerate(sizes):
        noise(size, 90).save(tmp_path / f"{i}.png")
    (tmp_path / "4-bad.png").write_bytes(b"no image")
    shapes: list[tuple[int, ...]] = []
    features = RetinaNet.features

    def recorded(self: RetinaNet, batch: Tensor) -> Any:
        shapes.append(tuple(batch.shape))
        return features(self, batch)

    monkeypatch.setattr(RetinaNet, "features", recorded)
    files, results = sorted(tmp_path.glob("*.png")), []
    for batch in (1, 3):
        out = tmp_path / f"out{batch}"
        with pytest.raises(UserError, match=r"4-bad\.png.* \(1 of 9 images are bad\)"):
            detect(files, weights, out, 0.0, batch=batch)
        results.append(json.loads((out / "detections.json").read_text()))
        assert len(list(out.glob("*.jpg"))) == len(sizes)
    wide, tall, square = (3, 32, 64), (3, 64, 32), (3, 64, 64)
    one_by_one = (wide, tall, square, square, square, wide, square, square)
    assert shapes[:8] == [(1, *shape) for shape in one_by_one]
    assert shapes[8:] == [(3, *square), (2, *wide), (1, *tall), (2, *square)]
    for alone, together in zip(*results, strict=True):
        found, again = alone.pop("detections"), together.pop("detections")
        assert alone == together and len(found) == len(again) == 5
        for one, other in zip(found, again, strict=True):
            assert one["score"] == pytest.approx(other["score"], rel=1e-4)
            assert one["bbox"] == pytest.approx(other["bbox"], abs=1e-2)
            assert one["name"] == other["name"]
    assert [Path(record["file"]).stem for record in results[1]] == list("01234567")


def test_items_wait_for_their_like() -> None:
    keys = "aabacbbdaecafg"
    items = [(key, number) for number, key in enumerate(keys)]
    for most in (1, 2, 3, 100):
        lists, taken = [], 0

        def counted() -> Iterator[tuple[str, int]]:
            nonlocal taken
            for item in items:
                taken += 1
                yield item

        for some in alike(counted(), most):
            assert len({keys[i] for i in some}) == 1 and len(some) <= most
            lists += [some]
            assert taken - sum(map(len, lists)) < 4 * most
        assert sorted(i for some in lists for i in some) == list(range(len(keys)))
    assert list(alike(items, 1)) == [[i] for i in range(len(keys))]
    assert list(alike(items, 2))[:3] == [[0, 1], [2, 5], [3, 8]]


def test_paths_without_images_are_named(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="empty: a folder without images"):
        find_images([tmp_path / "empty"])
    with pytest.raises(UserError, match="missing: no such file or folder"):
        find_images([tmp_path / "missing"])


def test_an_image_named_twice_is_taken_once(tmp_path: Path) -> None:
    photo = picture(tmp_path / "in" / "x.png")
    assert list(find_images([photo, tmp_path / "in", photo])) == [photo]


def test_picture_names_never_collide() -> None:
    places = ["x.jpg", "x.png", "X.jpg", "x-2.jpg", "a/x.jpg", "a/x.v2.jpg"]
    names = picture_names(map(PurePath, places))
    assert names == ["x.jpg", "x-2.jpg", "X-3.jpg", "x-2-2.jpg", "a/x.jpg", "a/x.v2.jpg"]
