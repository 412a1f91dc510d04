"""Two generations of a checkpoint: one of them is whole at any moment, and the newest whole one is
what a run goes on with."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from focaldet import checkpoint
from focaldet.checkpoint import (
    LAST,
    PREVIOUS,
    DamagedCheckpoint,
    Description,
    OlderCheckpointWarning,
    load_newest,
    save_generation,
)
from focaldet.errors import UserError
from focaldet.files import replacing, sweep

STEPS = ("link", "replace", "fsync", "unlink")


def save(folder: Path, number: int) -> None:
    weights = {"weight": torch.full((3,), float(number)), "count": torch.tensor(number)}
    save_generation(folder, weights, Description({}, ["a"], [1]), {"step": number})


def newest(folder: Path) -> int:
    weights, description, state, _ = load_newest(folder, training=True)
    assert state is not None and description.class_names == ["a"]
    number = state["step"]
    assert weights["weight"].tolist() == [number] * 3 and weights["count"] == number
    return number


def quiet_newest(folder: Path) -> int:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return newest(folder)


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def no_links(*_: object, **__: object) -> None:
    raise OSError(errno.EPERM, "Operation not permitted")


@pytest.fixture(params=["hard links", "no hard links"], autouse=True)
def file_system(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "no hard links":
        monkeypatch.setattr(os, "link", no_links)


def test_the_last_two_are_kept(tmp_path: Path) -> None:
    save(tmp_path, 1)
    assert names(tmp_path) == {LAST}, "there is nothing before the first"
    for number in (2, 3, 4):
        save(tmp_path, number)
        assert names(tmp_path) == {LAST, PREVIOUS}
        assert quiet_newest(tmp_path) == number
    (tmp_path / LAST).unlink()
    with pytest.warns(OlderCheckpointWarning):
        assert newest(tmp_path) == 3


DAMAGE: dict[str, tuple[Callable[[bytes], bytes | None], str]] = {
    "missing": (lambda data: None, "no such checkpoint"),
    "empty": (lambda data: b"", "truncated"),
    "cut": (lambda data: data[:-1], "truncated"),
    "flipped": (lambda data: data[:-3] + bytes([data[-3] ^ 1]) + data[-2:], "damaged checkpoint"),
    "no hash": (lambda data: data.replace(b'"sha256"', b'"sha257"'), "not a checkpoint"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_last_gives_way_to_the_one_before(tmp_path: Path, damage: str) -> None:
    change, message = DAMAGE[damage]
    save(tmp_path, 1)
    save(tmp_path, 2)
    data = change((tmp_path / LAST).read_bytes())
    (tmp_path / LAST).unlink()
    if data is not None:
        (tmp_path / LAST).write_bytes(data)
    with pytest.warns(OlderCheckpointWarning) as caught:
        assert newest(tmp_path) == 1
    (text,) = (str(warning.message) for warning in caught)
    assert text.startswith(f"{tmp_path / LAST}: ") and message in text and "\n" not in text
    assert text.endswith(f"took {tmp_path / PREVIOUS} instead")

    (tmp_path / PREVIOUS).write_bytes(b"")
    with pytest.raises(DamagedCheckpoint) as error:
        load_newest(tmp_path)
    assert str(tmp_path / LAST) in str(error.value) and str(tmp_path / PREVIOUS) in str(error.value)


def test_another_version_is_no_reason_to_take_an_older_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path, 1)
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "FORMAT", 2)
        save(tmp_path, 2)
    with pytest.raises(UserError, match=f"{LAST}: written by another version") as error:
        load_newest(tmp_path)
    assert not isinstance(error.value, DamagedCheckpoint)


def test_a_whole_one_is_there_at_every_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Looks at the folder before and after each step of saving, with `last` whole or damaged."""
    seen: list[int] = []

    def look() -> None:
        with monkeypatch.context() as patch, warnings.catch_warnings():
            warnings.simplefilter("ignore", OlderCheckpointWarning)
            for name, real in plain.items():
                patch.setattr(os, name, real)
            seen.append(newest(tmp_path))

    def watched(real: Callable[..., object]) -> Callable[..., object]:
        def step(*args: object, **more: object) -> object:
            look()
            try:
                return real(*args, **more)
            finally:
                look()

        return step

    for number in (1, 2):
        save(tmp_path, number)
    plain = {name: getattr(os, name) for name in STEPS}
    links = plain["link"] is not no_links
    for number, damaged in ((3, False), (4, True)):
        if damaged and not links:
            break  # only renames: `previous` is given up for the file it is told to keep
        if damaged:
            (tmp_path / LAST).write_bytes(b"damaged")
        seen.clear()
        with monkeypatch.context() as patch:
            for name, real in plain.items():
                patch.setattr(os, name, watched(real))
            save(tmp_path, number)
        before = number - 2 if damaged else number - 1
        assert seen == sorted(seen) and set(seen) == {before, number}, seen
        assert len(seen) >= 8, "not all steps were watched"
        assert quiet_newest(tmp_path) == number


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("call", [1, 2])
def test_a_failing_step_leaves_a_whole_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, call: int
) -> None:
    for number in (1, 2):
        save(tmp_path, number)
    real, calls = getattr(os, step), []

    def fail(*args: object, **more: object) -> object:
        calls.append(args)
        if len(calls) == call:
            raise OSError(errno.EIO, "Input/output error")
        return real(*args, **more)

    with monkeypatch.context() as patch:
        patch.setattr(os, step, fail)
        try:
            save(tmp_path, 3)
        except OSError as error:
            assert error.errno == errno.EIO
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", OlderCheckpointWarning)
        assert newest(tmp_path) in (2, 3)
    save(tmp_path, 4)
    assert quiet_newest(tmp_path) == 4


def test_what_killed_saves_left_is_swept_and_nothing_else(tmp_path: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", "pass"])
    ended.wait()
    save(tmp_path, 1)
    dead = [tmp_path / f".{stem}.{ended.pid}.tmp{suffix}" for stem, suffix in (
        ("last", ".safetensors"), ("previous", ".safetensors"), ("metrics", ".jsonl"), ("w", ""),
    )]  # fmt: skip
    same = tmp_path / f".best.{os.getpid()}.tmp.safetensors"
    alive = tmp_path / f".last.{os.getppid()}.tmp.safetensors"
    others = [tmp_path / name for name in (".last.tmp.safetensors", "last.1.tmp", ".x.12.tmp.a.b")]
    for path in [*dead, same, alive, *others]:
        path.write_bytes(b"half")
    assert sweep(tmp_path) == sorted([*dead, same])
    assert names(tmp_path) == {LAST, alive.name, *(path.name for path in others)}


def test_the_temporary_files_of_saving_are_those_that_are_swept(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), replacing(tmp_path / LAST) as temporary:
        temporary.touch()
        assert sweep(tmp_path) == [temporary], "of this process, so of its predecessor"
