from __future__ import annotations

import gc
import os
import pickle
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from focaldet.data.images import inside, missing
from focaldet.data.table import Texts, collector_paused
from focaldet.errors import UserError


@given(st.lists(st.text(st.characters(exclude_categories=()), max_size=5), max_size=6))
def test_texts_are_a_list(texts: list[str]) -> None:
    packed = Texts(texts)
    assert list(packed) == texts and len(packed) == len(texts)
    assert list(pickle.loads(pickle.dumps(packed))) == texts
    assert packed[1:-1] == texts[1:-1] and list(reversed(packed)) == texts[::-1]
    if texts:
        assert packed[-1] == texts[-1]
    for beyond in (len(texts), -len(texts) - 1):
        with pytest.raises(IndexError):
            packed[beyond]


def test_the_collector_is_left_as_it_was() -> None:
    for enabled in (True, False):
        (gc.enable if enabled else gc.disable)()
        try:
            with pytest.raises(KeyError), collector_paused():
                assert not gc.isenabled()
                raise KeyError
            assert gc.isenabled() == enabled
        finally:
            gc.enable()


def test_missing_files(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "there.png").touch()
    os.symlink("a/there.png", tmp_path / "link.png")
    os.symlink("nowhere.png", tmp_path / "dangling.png")
    os.symlink("loop.png", tmp_path / "loop.png")
    os.symlink("a", tmp_path / "b")
    found = ["a/there.png", "link.png", "b/there.png", "./a//there.png"]
    lost = ["a", "a/nowhere.png", "dangling.png", "loop.png", "a/there.png/x", "x" * 999, "\ud800"]
    assert missing(tmp_path, [*found, *lost]) == list(range(len(found), len(found) + len(lost)))


def test_what_leads_out_is_refused_as_one_by_one(tmp_path: Path) -> None:
    folder, outside = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    outside.mkdir()
    (outside / "x.png").touch()
    os.symlink(outside, folder / "door")
    os.symlink(outside / "x.png", folder / "window.png")
    (folder / "x.png").touch()
    for name in ("../out/x.png", "door/x.png", "window.png", str(outside / "x.png"), "x\0.png"):
        with pytest.raises(UserError, match="leads out") as one:
            inside(folder, name)
        with pytest.raises(UserError) as many:
            missing(folder, ["x.png", name])
        assert str(one.value) == str(many.value)


def test_the_table_of_a_data_set_is_what_to_coco_says(coco: SimpleNamespace) -> None:
    dataset = coco.load()
    table, said = dataset.table, dataset.to_coco()
    assert [entry["id"] for entry in said["images"]] == table.image_ids.tolist() == [0, 7, 3]
    for annotation, row, label, box, area, crowd in zip(
        said["annotations"],
        table.image_rows,
        table.labels,
        table.boxes,
        table.areas,
        table.crowd,
        strict=True,
    ):
        assert annotation["image_id"] == table.image_ids[row]
        assert annotation["category_id"] == table.category_ids[label]
        assert annotation["bbox"] == box.tolist() and annotation["area"] == area
        assert annotation["iscrowd"] == crowd
    assert all(a <= b for a, b in zip(table.image_rows, table.image_rows[1:], strict=False))
