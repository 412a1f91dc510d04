"""Files of weights: what each program writes is read; what could run code is not."""

from __future__ import annotations

import argparse
import os
import pickle
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from focaldet.errors import UserError
from focaldet.weights import read_source
from focaldet.weights.arrays import read_arrays

WEIGHTS = {"a.weight": torch.randn(2, 3), "a.num_batches_tracked": torch.tensor(7)}


def assert_same(got: dict, want: dict = WEIGHTS) -> None:
    assert list(got) == list(want)
    for name, value in want.items():
        assert got[name].dtype == value.dtype and torch.equal(got[name], value), name


def wrapped(weights: dict) -> dict:
    return {f"module.{name}": value for name, value in weights.items()}


other = {name: value + 1 for name, value in WEIGHTS.items()}
SAVED = {
    "a state dict": WEIGHTS,
    "torchvision's script": {
        "model": OrderedDict(WEIGHTS),
        "optimizer": {"state": {0: {"step": torch.ones(1)}}, "param_groups": [{"lr": 0.1}]},
        "args": argparse.Namespace(lr=0.1, device="cpu"),
        "epoch": 25,
    },
    "DataParallel": {"model": wrapped(WEIGHTS)},
    "an average": {
        "model": other,
        "model_ema": wrapped(WEIGHTS) | {"n_averaged": torch.tensor(3)},
    },
    "timm's average": {"state_dict": other, "state_dict_ema": WEIGHTS},
    "mmdetection": {"meta": {"epoch": 12}, "state_dict": WEIGHTS},
}


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("content", SAVED.values(), ids=SAVED)
def test_torch_save(tmp_path: Path, content: dict, legacy: bool) -> None:
    path = tmp_path / "weights.pth"
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    assert_same(read_source(path).weights)


def test_safetensors(tmp_path: Path) -> None:
    safetensors.torch.save_file(WEIGHTS, tmp_path / "weights.safetensors")
    got = read_source(tmp_path / "weights.safetensors").weights
    assert_same({name: got[name] for name in WEIGHTS})


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_pickled_arrays(tmp_path: Path, protocol: int) -> None:
    arrays = OrderedDict((name, value.numpy()) for name, value in WEIGHTS.items())
    arrays["column"] = np.asfortranarray(np.arange(6, dtype=np.float16).reshape(2, 3))
    arrays["big"] = np.arange(3, dtype=">f8")
    arrays["none"] = np.zeros((0, 4), np.float32)
    content = {"model": arrays, "__author__": "Detectron2 Model Zoo", "scalar": np.float32(2)}
    (tmp_path / "zoo.pkl").write_bytes(pickle.dumps(content, protocol))
    want = {n: torch.from_numpy(a.astype(a.dtype.newbyteorder("="))) for n, a in arrays.items()}
    assert_same(read_source(tmp_path / "zoo.pkl").weights, want)


@pytest.mark.parametrize(
    "meta",
    [
        {"dataset_meta": {"classes": ("disc", "square")}, "cfg": "style='caffe'"},
        {"CLASSES": ["disc", "square"], "config": "style='caffe'"},
    ],
    ids=["version 3", "version 2"],
)
def test_mmdetections_description(tmp_path: Path, meta: dict) -> None:
    torch.save({"meta": meta, "state_dict": WEIGHTS}, tmp_path / "w.pth")
    source = read_source(tmp_path / "w.pth")
    assert source.class_names == ("disc", "square") and source.config == "style='caffe'"


class Call:
    """Pickles as a call of any function."""

    def __init__(self, function, *arguments) -> None:
        self.call = function, arguments

    def __reduce__(self):
        return self.call


FORBIDDEN = {
    "a call": (Call(os.mkdir, "made"), f"{os.mkdir.__module__}.mkdir"),
    "a class": (argparse.Namespace(a=1), "names"),
    "objects in an array": (np.array([None, {}], dtype=object), "type 'O8'"),
    "text in an array": (np.array(["a", "bc"]), "type 'U2'"),
    "fields in an array": (np.zeros(2, [("x", "f4")]), "type 'V4'"),
    "a type of objects": (np.dtype("O"), "type 'O8'"),
    "NumPy's loader": (Call(np.load, "file.npy"), "numpy.load"),
}


@pytest.mark.parametrize("content, message", FORBIDDEN.values(), ids=FORBIDDEN)
@pytest.mark.parametrize("protocol", [2, 5])
def test_a_pickle_may_hold_nothing_but_arrays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: object, message: str, protocol: int
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("zoo.pkl").write_bytes(pickle.dumps({"model": {"a": content}}, protocol))
    with pytest.raises(UserError, match="zoo.pkl: .*; expected a pickle of NumPy arrays") as caught:
        read_source("zoo.pkl")
    assert message in str(caught.value) and "\n" not in str(caught.value)
    assert os.listdir() == ["zoo.pkl"], "something was called"


def test_an_array_cannot_be_larger_than_its_bytes() -> None:
    data = pickle.dumps(np.arange(4, dtype=np.uint8), protocol=2)
    for shape in (b"K\x05\x85", b"K\x03\x85"):  # (5,) and (3,) instead of (4,)
        assert data.count(b"K\x04\x85") == 1
        with pytest.raises(ValueError, match=r"holds an array \(\d,\) in 4 bytes"):
            read_arrays(data.replace(b"K\x04\x85", shape))


def test_what_a_file_changes_ends_with_it() -> None:
    """Pickles can set attributes of what they name."""
    attack = b"cnumpy\nndarray\n(N}Vkeywords\nVx\nstb."
    with pytest.raises(ValueError):
        read_arrays(attack)
    assert read_arrays(pickle.dumps(np.ones(2))).tolist() == [1, 1]


@pytest.mark.parametrize("kept", [0, 0.3, 0.9])
@pytest.mark.parametrize("name", ["w.pkl", "w.pth", "w.safetensors"])
def test_truncated_files(tmp_path: Path, name: str, kept: float) -> None:
    path = tmp_path / name
    if name == "w.pkl":
        path.write_bytes(pickle.dumps({n: t.numpy() for n, t in WEIGHTS.items()}))
    elif name == "w.pth":
        torch.save(WEIGHTS, path)
    else:
        safetensors.torch.save_file(WEIGHTS, path)
    data = path.read_bytes()
    path.write_bytes(data[: int(kept * len(data))])
    with pytest.raises(UserError, match=f"{name}: .*truncated one") as caught:
        read_source(path)
    assert "\n" not in str(caught.value)


def test_objects_beside_tensors_are_named(tmp_path: Path) -> None:
    torch.save({"state_dict": WEIGHTS, "hub": Path("x")}, tmp_path / "w.pth")
    with pytest.raises(UserError, match=r"Python objects .*\(pathlib.*save its state dict alone"):
        read_source(tmp_path / "w.pth")


@pytest.mark.parametrize(
    "content, message",
    [
        ({"epoch": 3, "weights": [1]}, "got a dict with the keys epoch, weights"),
        ({"model": {"a": 1.0}}, "got a dict with the keys model"),
        ([torch.ones(1)], "got a list"),
        ({}, "got a dict with the keys \\(none\\)"),
    ],
)
def test_no_state_dict(tmp_path: Path, content: object, message: str) -> None:
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(UserError, match=f"expected a state dict, .*{message}"):
        read_source(tmp_path / "w.pth")
    with pytest.raises(UserError, match="no such file; expected weights as .pth"):
        read_source(tmp_path / "none.pth")
