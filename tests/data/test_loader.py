from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import time
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import Dataset

from focaldet.data import (
    Batches,
    CocoDataset,
    SkippedImageWarning,
    WorkerWarning,
    collate,
    train_transform,
)
from focaldet.errors import UserError

IMAGES = 11


@pytest.fixture
def eleven(coco: SimpleNamespace) -> SimpleNamespace:
    """Eleven images of 60 x 40, ids 0 to 10, with one box each."""
    coco.content["images"] = [
        {"id": i, "file_name": f"{i}.png", "width": 60, "height": 40} for i in range(IMAGES)
    ]
    coco.content["annotations"] = [
        {"id": i, "image_id": i, "category_id": 0, "bbox": [i, i, 10, 10]} for i in range(IMAGES)
    ]
    for i in range(IMAGES):
        coco.image(f"{i}.png", seed=i)
    return coco


def dataset_of(eleven: SimpleNamespace, **options: Any) -> CocoDataset:
    return eleven.load(transform=train_transform(30, vertical_flip=0.5), **options)


def ids(batches: Any) -> list[list[int]]:
    return [[target["image_id"] for target in targets] for _, targets in batches]


def same(a: list[Any], b: list[Any]) -> bool:
    """Equal batches, bit for bit."""
    return len(a) == len(b) and all(
        len(one_images) == len(other_images)
        and all(map(torch.equal, one_images, other_images))
        and all(
            one["image_id"] == other["image_id"] and torch.equal(one["boxes"], other["boxes"])
            for one, other in zip(one_targets, other_targets, strict=True)
        )
        for (one_images, one_targets), (other_images, other_targets) in zip(a, b, strict=True)
    )


def test_batches_are_lists_and_the_last_may_be_smaller(eleven: SimpleNamespace) -> None:
    batches = Batches(dataset_of(eleven), 4)
    assert len(batches) == 3
    found = list(batches)
    assert [len(images) for images, _ in found] == [4, 4, 3]
    assert all(isinstance(images, list) and isinstance(targets, list) for images, targets in found)
    assert ids(found) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10]]


def test_collate_keeps_sizes() -> None:
    images, targets = collate([(torch.zeros(3, 2, 5), {"a": 1}), (torch.zeros(3, 4, 4), {"a": 2})])
    assert [tuple(image.shape) for image in images] == [(3, 2, 5), (3, 4, 4)]
    assert targets == [{"a": 1}, {"a": 2}]


@pytest.mark.parametrize("workers", [1, 2])
def test_any_number_of_workers_gives_the_same_batches(
    workers: int, eleven: SimpleNamespace
) -> None:
    dataset = dataset_of(eleven)
    alone = Batches(dataset, 4, seed=5, shuffle=True)
    together = Batches(dataset, 4, seed=5, shuffle=True, workers=workers)
    for epoch in (0, 1):
        assert same(list(alone.epoch(epoch)), list(together.epoch(epoch)))


def test_order_and_augmentation_depend_on_seed_and_epoch(eleven: SimpleNamespace) -> None:
    dataset = dataset_of(eleven)

    def run(seed: int, epoch: int) -> list[Any]:
        return list(Batches(dataset, 4, seed=seed, shuffle=True).epoch(epoch))

    assert same(run(1, 2), run(1, 2))
    orders = [sum(ids(run(seed, epoch)), []) for seed in (1, 2) for epoch in (0, 1)]
    assert all(sorted(order) == list(range(IMAGES)) for order in orders)
    assert len(set(map(tuple, orders))) == 4

    def by_id(batches: list[Any]) -> dict[int, torch.Tensor]:
        pairs = [pair for batch in batches for pair in zip(*batch, strict=True)]
        return {target["image_id"]: image for image, target in pairs}

    first, second = by_id(run(1, 0)), by_id(run(1, 1))
    flipped = [not torch.equal(first[i], second[i]) for i in range(IMAGES)]
    assert any(flipped) and not all(flipped), "flips are drawn anew every epoch"


@pytest.mark.parametrize("workers", [0, 2])
def test_an_epoch_resumes_at_any_batch(workers: int, eleven: SimpleNamespace) -> None:
    batches = Batches(dataset_of(eleven), 4, seed=3, shuffle=True, workers=workers)
    whole = list(batches.epoch(6))
    for start in range(4):
        assert same(list(batches.epoch(6, start)), whole[start:])


class Numbers(Dataset[Any]):
    """As many items as asked for, and each no more than its number."""

    skip_bad_images, cache = False, None
    skipped: dict[int, str] = {}

    def __init__(self, items: int) -> None:
        self.items = items

    def __len__(self) -> int:
        return self.items

    def load(self, index: int, generator: torch.Generator) -> Any:
        return torch.zeros(0), {"image_id": index}

    sample = load


@given(
    items=st.integers(1, 40),
    batch_size=st.integers(1, 12),
    world=st.integers(1, 5),
    parts=st.integers(1, 4),
    shuffle=st.booleans(),
    start=st.integers(0, 2),
)
def test_ranks_and_parts_divide_every_batch(
    items: int, batch_size: int, world: int, parts: int, shuffle: bool, start: int
) -> None:
    def batches(**options: int) -> Batches:
        return Batches(Numbers(items), batch_size, seed=7, shuffle=shuffle, **options)

    whole = ids(batches().epoch(1, start))
    ranks = [
        ids(batches(rank=rank, world=world, parts=parts).epoch(1, start)) for rank in range(world)
    ]
    if not shuffle:  # evaluation: each image once, and no empty batch
        assert sorted(sum((sum(rank, []) for rank in ranks), [])) == sorted(sum(whole, []))
        assert all(map(len, sum(ranks, [])))
        return
    assert [len(rank) for rank in ranks] == [parts * len(whole)] * world, "as many steps on each"
    for step, batch in enumerate(whole):
        shares = [rank[step * parts : (step + 1) * parts] for rank in ranks]
        sizes = [sum(map(len, share)) for share in shares]
        assert sum((sum(share, []) for share in shares), []) == batch, "in order, each image once"
        assert sizes == [len(part) for part in torch.arange(len(batch)).tensor_split(world)]
        for share, size in zip(shares, sizes, strict=True):
            assert list(map(len, share)) == [len(p) for p in torch.arange(size).tensor_split(parts)]


@pytest.mark.parametrize("workers", [0, 2])
def test_an_empty_part_comes_through_workers(workers: int, eleven: SimpleNamespace) -> None:
    batches = Batches(dataset_of(eleven), 2, shuffle=True, workers=workers, rank=1, world=2)
    assert list(map(len, ids(batches.epoch(0)))) == [1, 1, 1, 1, 1, 0]


@pytest.mark.parametrize("workers", [0, 2])
def test_an_epoch_may_be_left_early(workers: int, eleven: SimpleNamespace) -> None:
    batches = Batches(dataset_of(eleven), 2, seed=3, shuffle=True, workers=workers)
    whole = list(batches.epoch(1))
    next(batches.epoch(0))
    assert same(list(batches.epoch(1)), whole)


def test_the_global_generator_is_not_touched(eleven: SimpleNamespace) -> None:
    state = torch.get_rng_state()
    list(Batches(dataset_of(eleven), 4, shuffle=True).epoch(0))
    list(Batches(dataset_of(eleven), 4, shuffle=True, workers=1).epoch(0))
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_bad_image_reaches_the_caller_as_one_line(
    workers: int, eleven: SimpleNamespace, one_line: Any
) -> None:
    (eleven.folder / "7.png").write_text("no image")
    batches = Batches(dataset_of(eleven), 4, workers=workers)
    with pytest.raises(UserError) as caught:
        list(batches)
    assert "7.png" in one_line(caught.value) and "Traceback" not in str(caught.value)


@pytest.mark.parametrize("workers", [0, 2])
def test_every_kind_of_broken_file_is_named(
    workers: int, eleven: SimpleNamespace, one_line: Any
) -> None:
    """Broken after the data set was made, as a disk or a neighbour does it during a run."""
    path = eleven.folder / "7.png"
    whole = path.read_bytes()

    def broken(content: bytes | None, kind: str) -> None:
        dataset = dataset_of(eleven)
        path.unlink()
        if content is not None:
            path.write_bytes(content)
        elif kind == "folder":
            path.mkdir()
        with pytest.raises(UserError, match=r"7\.png'") as caught:
            list(Batches(dataset, 4, workers=workers))
        one_line(caught.value)
        if kind == "folder":
            path.rmdir()
        path.write_bytes(whole)

    broken(None, "vanished")
    broken(None, "folder")
    broken(b"", "empty")
    broken(whole[: len(whole) // 2], "cut off")
    broken(bytes(len(whole)), "zeros")


def test_workers_end_with_their_batches(eleven: SimpleNamespace) -> None:
    """At once, not when the collector comes: an evaluation after every epoch makes others."""
    before = set(multiprocessing.active_children())  # held by tracebacks of other tests
    batches = Batches(dataset_of(eleven), 2, workers=2)
    for _ in batches:
        break
    assert len({*multiprocessing.active_children()} - before) == 2
    del batches
    assert {*multiprocessing.active_children()} <= before


def test_killed_workers_change_no_batch(eleven: SimpleNamespace) -> None:
    dataset = dataset_of(eleven)
    expected = list(Batches(dataset, 2, seed=3, shuffle=True).epoch(4))
    batches, found = Batches(dataset, 2, seed=3, shuffle=True, workers=2), []
    with pytest.warns(WorkerWarning, match="SIGKILL"):
        for batch in batches.epoch(4):
            found.append(batch)
            for process in multiprocessing.active_children():
                process.kill()
    assert same(found, expected)


def test_images_that_kill_or_stop_every_worker_are_named(
    eleven: SimpleNamespace, one_line: Any
) -> None:
    def transform(how: signal.Signals) -> Any:
        def at_four(image: Any, boxes: torch.Tensor, generator: torch.Generator) -> Any:
            if boxes[0, 0] == 4:
                os.kill(os.getpid(), how)
            return torch.zeros(3, 4, 4), boxes

        return at_four

    for how, expected in ((signal.SIGKILL, "died"), (signal.SIGSTOP, "waiting for")):
        limit = 60 if how == signal.SIGKILL else 3  # seconds, in which the others come surely
        batches = Batches(eleven.load(transform=transform(how)), 2, workers=2, timeout=limit)
        with warnings.catch_warnings(), pytest.raises(UserError, match=expected) as caught:
            warnings.simplefilter("ignore", WorkerWarning)
            list(batches)
        assert "4.png, 5.png" in one_line(caught.value)


@pytest.mark.parametrize("workers", [0, 2])
def test_pinned_images(
    workers: int, eleven: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a GPU: what would be pinned is."""
    pinned: list[torch.Tensor] = []
    monkeypatch.setattr(
        torch.Tensor, "pin_memory", lambda image: pinned.append(image.clone()) or pinned[-1]
    )
    found = list(Batches(dataset_of(eleven), 4, workers=workers, pin=True))
    images = [image for images, _ in found for image in images]
    assert len(images) == IMAGES and all(map(torch.Tensor.is_set_to, images, pinned))


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_training_replaces_bad_images_and_names_each_once(
    workers: int, eleven: SimpleNamespace
) -> None:
    for i in (4, 5):
        (eleven.folder / f"{i}.png").write_text("no image")
    dataset = dataset_of(eleven, skip_bad_images=True)
    batches = Batches(dataset, 4, seed=1, shuffle=True, workers=workers)
    with warnings.catch_warnings(record=True) as record:
        warnings.simplefilter("always")
        epochs = [ids(batches.epoch(epoch)) for epoch in (0, 1)]

    named = [str(w.message) for w in record if w.category is SkippedImageWarning]
    assert len(named) == 2 and sorted(dataset.skipped) == [4, 5]
    for epoch, found in enumerate(epochs):
        expected = [6 if i in (4, 5) else i for i in batches.order(epoch)]
        assert sum(found, []) == expected, "the next readable image, whatever loaded it"


@pytest.mark.parametrize("workers", [0, 2])
def test_evaluation_leaves_bad_images_out(workers: int, eleven: SimpleNamespace) -> None:
    for i in (4, 5, 8, 9, 10):
        (eleven.folder / f"{i}.png").write_text("no image")
    dataset = dataset_of(eleven, skip_bad_images=True)
    with pytest.warns(SkippedImageWarning):
        found = ids(Batches(dataset, 4, workers=workers))
    assert found == [[0, 1, 2, 3], [6, 7]], "and a batch of bad images alone altogether"
    assert sorted(dataset.skipped) == [4, 5, 8, 9, 10]


def test_an_error_of_the_program_keeps_its_traceback(eleven: SimpleNamespace) -> None:
    def broken(*_: Any) -> Any:
        raise KeyError("a bug in a transform")

    with pytest.raises(KeyError, match="a bug in a transform"):
        list(Batches(eleven.load(transform=broken), 4, workers=1))


def test_wrong_arguments_are_refused(eleven: SimpleNamespace) -> None:
    dataset = dataset_of(eleven)
    for wrong in ({"batch_size": 0}, {"workers": -1}, {"seed": -1}):
        with pytest.raises(ValueError, match="expected batch_size >= 1"):
            Batches(dataset, **{"batch_size": 1, **wrong})
    for wrong in ({"rank": 1}, {"rank": -1}, {"world": 0}, {"parts": 0}):
        with pytest.raises(ValueError, match="expected 0 <= rank < world"):
            Batches(dataset, 1, **wrong)


@pytest.mark.skipif(os.name != "posix", reason="sends SIGINT to a process group")
def test_ctrl_c_ends_the_workers_without_a_word(eleven: SimpleNamespace, tmp_path: Path) -> None:
    eleven.load()
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent(
            """
            import signal
            import sys
            from focaldet.data import Batches, CocoDataset

            # What starts in the background of a shell ignores Ctrl-C, and so do its children.
            signal.signal(signal.SIGINT, signal.default_int_handler)
            batches = Batches(CocoDataset(sys.argv[1], sys.argv[2]), 2, workers=2)
            epoch = 0
            try:
                while True:
                    for _ in batches.epoch(epoch):
                        if epoch == 1:
                            print("running", flush=True)
                    epoch += 1
            except KeyboardInterrupt:
                sys.exit(130)
            """
        )
    )
    process = subprocess.Popen(
        [sys.executable, str(script), str(eleven.file), str(eleven.folder)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        start_new_session=True,  # a process group of its own, as a terminal gives
    )
    assert process.stdout.readline() == "running\n", process.stderr.read()
    time.sleep(0.2)
    os.killpg(process.pid, signal.SIGINT)
    try:
        _, errors = process.communicate(timeout=30)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        pytest.fail("still running 30 seconds after Ctrl-C")
    assert process.returncode == 130
    assert errors == ""
    with pytest.raises(ProcessLookupError):  # no worker is left in the group
        os.killpg(process.pid, 0)
