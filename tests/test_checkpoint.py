"""Checkpoints: what is written comes back; what is damaged or foreign is refused in one line."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import safetensors.torch
import torch

from focaldet.checkpoint import (
    Description,
    load_checkpoint,
    load_model,
    load_weights,
    save_checkpoint,
)
from focaldet.errors import UserError
from focaldet.files import write_atomically
from focaldet.models import RetinaNet


def tiny_model(num_classes: int = 2) -> RetinaNet:
    torch.manual_seed(0)
    return RetinaNet(
        num_classes, "resnet18", width=16, fpn_channels=16, head_depth=1, min_size=64, max_size=64
    )


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    model = tiny_model()
    path = tmp_path / "last.safetensors"
    description = Description(model.config, ["a", "b"], [0, 7], epoch=3, metrics={"AP": 0.5})
    optimizer = {"state": {0: {"step": torch.tensor(4.0)}}, "param_groups": [{"betas": (0.9, 1)}]}
    save_checkpoint(path, model.state_dict(), description, {"optimizer": optimizer, "step": 4})
    return path


def test_round_trip(saved: Path) -> None:
    weights, description, state = load_checkpoint(saved, training=True)
    model = tiny_model()
    assert weights.keys() == model.state_dict().keys(), "training tensors are kept apart"
    for name, value in model.state_dict().items():
        assert torch.equal(weights[name], value), name
    assert description == Description(model.config, ["a", "b"], [0, 7], 3, {"AP": 0.5})
    assert state == {
        "optimizer": {"state": {"0": {"step": 4.0}}, "param_groups": [{"betas": [0.9, 1]}]},
        "step": 4,
    }


def test_the_model_is_rebuilt_from_the_file_alone(saved: Path) -> None:
    torch.manual_seed(1)
    model, description = load_model(saved)
    assert not model.training and description.class_names == ["a", "b"]
    image = torch.rand(3, 64, 48)
    (ours,), (theirs,) = model([image]), tiny_model().eval()([image])
    for key in ("boxes", "scores", "labels"):
        torch.testing.assert_close(ours[key], theirs[key])


def test_other_tools_read_the_weights(saved: Path) -> None:
    tensors = safetensors.torch.load_file(saved)
    tiny_model().load_state_dict({n: t for n, t in tensors.items() if "/" not in n})


def test_channels_last_and_bfloat16_weights_come_back_with_their_values(tmp_path: Path) -> None:
    weight = torch.randn(4, 3, 2, 2, dtype=torch.bfloat16).to(memory_format=torch.channels_last)
    save_checkpoint(tmp_path / "w", {"weight": weight}, Description({}, [], []))
    assert torch.equal(load_checkpoint(tmp_path / "w")[0]["weight"], weight)


@pytest.mark.parametrize("failing", ["fsync", "replace"])
def test_a_failed_write_leaves_the_checkpoint_before_it(
    saved: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    before = saved.read_bytes()

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, failing, fail)
    with pytest.raises(OSError, match="disk full"):
        save_checkpoint(saved, {"weight": torch.zeros(3)}, Description({}, [], []))
    monkeypatch.undo()
    assert saved.read_bytes() == before
    assert [p.name for p in saved.parent.iterdir()] == [saved.name], "the temporary file is gone"
    load_model(saved)


def test_a_write_is_synced_before_it_gets_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    for name in ("fsync", "replace"):
        real = getattr(os, name)
        monkeypatch.setattr(
            os, name, lambda *args, name=name, real=real: (calls.append(name), real(*args))
        )
    write_atomically(tmp_path / "file", b"data")
    assert calls[:2] == ["fsync", "replace"]
    assert (tmp_path / "file").read_bytes() == b"data"


@pytest.mark.parametrize("kept", [0.0, 0.0001, 0.01, 0.5, 0.999])
def test_a_truncated_checkpoint_is_refused(saved: Path, kept: float) -> None:
    data = saved.read_bytes()
    saved.write_bytes(data[: int(len(data) * kept)])
    with pytest.raises(UserError, match=f"{saved}: not a focaldet checkpoint, or a truncated one"):
        load_checkpoint(saved)


@pytest.mark.parametrize("place", [0.5, 0.9999])
def test_a_flipped_bit_is_found(saved: Path, place: float) -> None:
    data = bytearray(saved.read_bytes())
    data[int(len(data) * place)] ^= 16
    saved.write_bytes(data)
    with pytest.raises(UserError, match=f"{saved}: damaged checkpoint"):
        load_checkpoint(saved)


def test_an_altered_description_is_found(saved: Path) -> None:
    data = saved.read_bytes()
    assert data.count(b'\\"a\\", \\"b\\"') == 1
    saved.write_bytes(data.replace(b'\\"a\\", \\"b\\"', b'\\"b\\", \\"a\\"'))
    with pytest.raises(UserError, match=f"{saved}: damaged checkpoint"):
        load_checkpoint(saved)


def test_foreign_files_are_refused(tmp_path: Path) -> None:
    foreign = tmp_path / "model.safetensors"
    safetensors.torch.save_file({"weight": torch.zeros(3)}, foreign)
    with pytest.raises(UserError, match="not a checkpoint of focaldet; focaldet convert makes one"):
        load_checkpoint(foreign)
    torch.save({"weight": torch.zeros(3)}, tmp_path / "model.pth")
    with pytest.raises(UserError, match="model.pth: not a focaldet checkpoint"):
        load_checkpoint(tmp_path / "model.pth")
    with pytest.raises(UserError, match="nothing: no such checkpoint"):
        load_checkpoint(tmp_path / "nothing")
    with pytest.raises(UserError, match="no such checkpoint"):
        load_checkpoint(tmp_path)


def test_weights_of_another_model_are_refused_by_name(saved: Path) -> None:
    weights, _, _ = load_checkpoint(saved)
    with pytest.raises(UserError, match="of another model: head.classification_head.cls_logits"):
        load_weights(tiny_model(num_classes=3), weights, saved)
    weights["extra"] = torch.zeros(2)
    with pytest.raises(UserError, match=r"extra is \(2,\) in the file, nothing in the model"):
        load_weights(tiny_model(), weights, saved)
