from __future__ import annotations

import errno
import multiprocessing
import os
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from focaldet.data import (
    Batches,
    CacheWarning,
    Compose,
    DetectionDataset,
    HorizontalFlip,
    Resize,
    ToTensor,
    cache,
    dataset,
    eval_transform,
    train_transform,
)
from focaldet.data.cache import PictureCache
from focaldet.errors import UserError

RNG = np.random.default_rng(0)


def picture(width: int = 8, height: int = 6) -> Image.Image:
    return Image.fromarray(RNG.integers(0, 256, (height, width, 3), np.uint8))


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "source.png"
    path.write_bytes(b"what the picture is made of")
    return path


def entries(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def never() -> Image.Image:
    raise AssertionError("made again")


def same(found: DetectionDataset, expected: list[Any]) -> bool:
    """Equal items, bit for bit."""
    return all(
        torch.equal(image, other)
        and torch.equal(target["boxes"], truth["boxes"])
        and {**target, "boxes": 0, "labels": 0} == {**truth, "boxes": 0, "labels": 0}
        for (image, target), (other, truth) in zip(found, expected, strict=True)
    )


def test_a_picture_is_made_once(source: Path, tmp_path: Path) -> None:
    first = picture()
    assert PictureCache(tmp_path / "c").get(source, "small", lambda: first) is first
    later = PictureCache(tmp_path / "c").get(source, "small", never)  # of a later run
    assert later.mode == "RGB" and later.tobytes() == first.tobytes() and later.size == first.size
    assert len(entries(tmp_path / "c")) == 1, "and nothing unfinished is left"


def test_another_variant_source_or_pillow_is_another_picture(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures = PictureCache(tmp_path / "c")
    other_source = tmp_path / "other.png"
    other_source.write_bytes(source.read_bytes())
    found = [pictures.get(source, "a", picture), pictures.get(source, "b", picture)]
    found.append(pictures.get(other_source, "a", picture))
    monkeypatch.setattr(cache.PIL, "__version__", "0")
    found.append(pictures.get(source, "a", picture))
    assert len({image.tobytes() for image in found}) == 4


@pytest.mark.parametrize("how", ["size", "time"])
def test_a_changed_source_is_decoded_again(how: str, source: Path, tmp_path: Path) -> None:
    pictures, new = PictureCache(tmp_path / "c"), picture()
    pictures.get(source, "", picture)
    status = source.stat()
    if how == "size":
        source.write_bytes(source.read_bytes() + b"!")
        os.utime(source, ns=(status.st_atime_ns, status.st_mtime_ns))
    else:
        os.utime(source, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    assert pictures.get(source, "", lambda: new) is new
    assert pictures.get(source, "", never).tobytes() == new.tobytes()
    assert len(entries(tmp_path / "c")) == 1, "the old picture is replaced"


def test_every_damage_is_noticed_and_mended(source: Path, tmp_path: Path) -> None:
    pictures, image = PictureCache(tmp_path / "c"), picture()
    pictures.get(source, "", lambda: image)
    (entry,) = entries(tmp_path / "c")
    whole = entry.read_bytes()
    flips = [whole[:i] + bytes([whole[i] ^ 4]) + whole[i + 1 :] for i in range(len(whole))]
    cuts = [whole[:i] for i in (0, 3, 31, 32, 40, len(whole) - 1)]
    for damaged in (*flips, *cuts, whole + b"!", bytes(len(whole))):
        entry.write_bytes(damaged)
        assert pictures.get(source, "", lambda: image) is image
        assert entry.read_bytes() == whole


def test_a_source_that_is_gone_is_an_error_though_it_was_cached(
    source: Path, tmp_path: Path
) -> None:
    pictures = PictureCache(tmp_path / "c")
    pictures.get(source, "", picture)
    source.unlink()
    with pytest.raises(AssertionError, match="made again"):
        pictures.get(source, "", never)


def test_a_full_disk_is_said_once_and_the_rest_goes_on(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures, kept = PictureCache(tmp_path / "c"), picture()
    pictures.get(source, "kept", lambda: kept)

    def full(self: Path, data: bytes) -> None:
        with open(self, "wb") as file:
            file.write(data[:10])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.warns(CacheWarning, match="No space left on device.*no more images") as record:
        for name in ("a", "b", "a"):
            new = picture()
            assert pictures.get(source, name, lambda new=new: new) is new
    assert len(record) == 1
    assert pictures.get(source, "kept", never).tobytes() == kept.tobytes()
    assert len(entries(tmp_path / "c")) == 1, "nothing half is left"


def test_the_last_of_a_disk_is_left_to_others(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "RESERVE", 2**62)
    pictures = PictureCache(tmp_path / "c")
    with pytest.warns(CacheWarning, match="less than .* MB are left on its disk"):
        pictures.get(source, "", picture)
    assert not entries(tmp_path / "c")


def test_a_folder_that_cannot_be_made_is_named(
    source: Path, one_line: Callable[[BaseException], str]
) -> None:
    with pytest.raises(UserError, match=r"source\.png.*cannot be made a folder") as caught:
        PictureCache(source)
    one_line(caught.value)


def test_what_a_killed_process_left_is_removed_in_time(tmp_path: Path) -> None:
    folder = PictureCache(tmp_path / "c").folder / "unfinished"
    for name, age in (("old", 2 * cache.STALE), ("new", 1)):
        (folder / name).touch()
        os.utime(folder / name, (time.time() - age,) * 2)
    PictureCache(tmp_path / "c")
    assert [path.name for path in folder.iterdir()] == ["new"]


def _fill(folder: Path, source: Path, seed: int) -> None:
    for number in np.random.default_rng(seed).integers(0, 12, 200).tolist():
        flat = Image.new("RGB", (40, 30), (number, 0, 0))
        found = PictureCache(folder).get(source, str(number), lambda flat=flat: flat)
        assert found.tobytes() == flat.tobytes()


def test_many_processes_share_a_folder(source: Path, tmp_path: Path) -> None:
    processes = [
        multiprocessing.Process(target=_fill, args=(tmp_path / "c", source, seed))
        for seed in range(4)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0] * 4
    assert len(entries(tmp_path / "c")) == 12


def test_items_are_the_same_with_and_without(
    coco: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Half(Resize):
        def __call__(self, image: Any, boxes: Any, generator: Any) -> Any:
            return super().__call__(image.crop((0, 0, 30, 20)), boxes, generator)

    for name, transform in {
        "smaller": train_transform(30),
        "as it is": train_transform(60),
        "larger": train_transform(100, vertical_flip=0.5),
        "evaluation": eval_transform(30),
        "no resize": Compose([HorizontalFlip(), ToTensor()]),
        "resized later": Compose([HorizontalFlip(), Resize(20, 20), ToTensor()]),
        "its own resize": Compose([Half(20, 20), ToTensor()]),
        "none": None,
    }.items():
        expected = list(coco.load(transform=transform))
        assert same(coco.load(transform=transform, cache=tmp_path / "c"), expected), name
        with monkeypatch.context() as context:  # full by now
            context.setattr(dataset, "read_image", never)
            assert same(coco.load(transform=transform, cache=tmp_path / "c"), expected), name


def test_the_announced_size_is_part_of_the_key(coco: SimpleNamespace, tmp_path: Path) -> None:
    """It decides whether a photo is turned."""
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    picture(60, 40).save(coco.folder / "0.png", exif=exif)
    for width, height in ((60, 40), (40, 60)):
        coco.content["images"][0].update(width=width, height=height)
        image, _ = coco.load(cache=tmp_path / "c")[0]
        assert image.shape == (3, height, width)


def test_workers_fill_the_cache(
    coco: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cached = coco.load(transform=train_transform(30), cache=tmp_path / "c")
    batches = Batches(cached, 2, workers=2)
    first = [image for images, _ in batches for image in images]
    assert len(entries(tmp_path / "c")) == len(cached)
    monkeypatch.setattr(dataset, "read_image", never)
    second = [image for images, _ in Batches(cached, 2, workers=2) for image in images]
    assert all(map(torch.equal, first, second)) and len(second) == len(cached)


def test_a_full_disk_is_said_once_by_all_workers(
    coco: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "RESERVE", 2**62)
    cached = coco.load(cache=tmp_path / "c")
    with pytest.warns(CacheWarning) as record:
        for epoch in (0, 1):
            assert len(list(Batches(cached, 1, workers=2).epoch(epoch))) == len(cached)
    assert len([w for w in record if w.category is CacheWarning]) == 1
    assert cached.cache.stopped
