"""The file of tensors with a text and a hash: the bytes that safetensors would write, and no copy
of the whole."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from generations import same
from safetensors import safe_open
from torch import Tensor

from focaldet import tensor_file
from focaldet.tensor_file import DamagedCheckpoint, read, write

# Of TENSORS and TEXT: format 1 of checkpoints stands on it.
SHA256 = "688c42d4309bf5c2c02779bf7df9102bfa4120e338a6729757e1928d0f2377fc"
TEXT = (
    '{"format": 1, "model": {"width": 16}, "class_names": ["a", "\\u00e9"], "category_ids": [1, 7]'
    ', "epoch": 3, "metrics": {"AP": 0.25}, "training": {"step": 4, "list": [{"$tensor": '
    '"training/list/0"}, [1, 2]]}}'
)
TENSORS = {
    "b.weight": torch.arange(12.0).reshape(3, 4),
    "training/list/0": torch.ones(2, dtype=torch.float64),
    "a.count": torch.tensor(7),
    "c": torch.tensor([1.5, -2.0], dtype=torch.bfloat16),
    "mask": torch.tensor([True, False, True]),
    "none": torch.zeros(0, 3),
}


def header_and_data(file: bytes) -> tuple[dict[str, Any], bytes]:
    size = 8 + int.from_bytes(file[:8], "little")
    return json.loads(file[8:size]), file[size:]


def test_the_file_is_the_one_that_safetensors_writes(tmp_path: Path) -> None:
    write(tmp_path / "file", TENSORS, TEXT)
    theirs = safetensors.torch.save(TENSORS, {"focaldet": TEXT, "sha256": SHA256})
    assert header_and_data((tmp_path / "file").read_bytes()) == header_and_data(theirs)


def test_what_comes_back(tmp_path: Path) -> None:
    write(tmp_path / "file", TENSORS, TEXT)
    tensors, text = read(tmp_path / "file")
    assert text == TEXT
    assert same(tensors, TENSORS)
    loaded = safetensors.torch.load_file(tmp_path / "file")
    assert all(torch.equal(loaded[name], tensor) for name, tensor in TENSORS.items())


def test_no_flipped_bit_and_no_cut_goes_unseen(tmp_path: Path) -> None:
    """One of every byte, and every length: refused, or nothing that is read has changed."""
    path = tmp_path / "file"
    write(path, TENSORS, TEXT)
    data = path.read_bytes()
    harmless = 0
    with open(path, "r+b", buffering=0) as file:
        for place, byte in enumerate(data):
            os.pwrite(file.fileno(), bytes([byte ^ 1 << place % 8]), place)
            try:
                tensors, text = read(path)
            except DamagedCheckpoint:
                pass
            else:
                assert text == TEXT and same(tensors, TENSORS), f"byte {place}: {path.read_bytes()}"
                harmless += 1
            os.pwrite(file.fileno(), bytes([byte]), place)
        assert harmless < 8, "of the spaces that fill up the header"
        for size in reversed(range(len(data))):
            file.truncate(size)
            with pytest.raises(DamagedCheckpoint):
                read(path)


@pytest.mark.parametrize("dtype", tensor_file._DTYPES)
def test_every_dtype_comes_back_and_is_aligned(tmp_path: Path, dtype: torch.dtype) -> None:
    tensor = torch.tensor([[0, 1, 1], [1, 0, 1]]).to(dtype)
    others = {name: TENSORS[name] for name in ("mask", "a.count", "c")}
    write(tmp_path / "file", {"tensor": tensor, **others}, "")
    found = read(tmp_path / "file")[0]["tensor"]
    assert found.dtype == dtype and torch.equal(found, tensor)
    file = (tmp_path / "file").read_bytes()
    header, data = header_and_data(file)
    start = len(file) - len(data) + header["tensor"]["data_offsets"][0]
    assert start % dtype.itemsize == 0


def test_an_unknown_dtype_is_named_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"phase: expected a dtype of .*, got torch.complex64"):
        write(tmp_path / "file", {"phase": torch.zeros(2, dtype=torch.complex64)}, "")
    assert not (tmp_path / "file").exists()


def test_tensors_in_any_layout(tmp_path: Path) -> None:
    tensors: dict[str, Tensor] = {}
    for n in range(20):
        tensor = torch.randn(4, 8, 3, 3, requires_grad=True)
        tensors[f"{n}"] = [tensor, tensor.to(memory_format=torch.channels_last), tensor[:, ::2]][
            n % 3
        ]
    write(tmp_path / "file", tensors, '"sha256":"' + "0" * 64)  # nor is its text taken for a hash
    found, text = read(tmp_path / "file")
    assert text == '"sha256":"' + "0" * 64
    assert all(torch.equal(found[name], tensor) for name, tensor in tensors.items())


def test_a_failing_write_or_hash_is_no_silent_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError("no more")

    torch.set_num_threads(2)
    for name in ("_start_writing", "_update"):
        with monkeypatch.context() as patch, pytest.raises(OSError, match="no more"):
            patch.setattr(tensor_file, name, fail)
            write(tmp_path / "file", {"large": torch.zeros(1 << 16)}, TEXT)
        assert torch.get_num_threads() == 2


GROWTH = """
import ctypes, re, sys, torch
from pathlib import Path
from focaldet.tensor_file import write

def resident(key):
    return int(re.search(key + r":\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) << 10

def grown(tensors):
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    before = resident("VmRSS")
    write(sys.argv[1], tensors, "")
    return resident("VmHWM") - before

layouts = torch.contiguous_format, torch.channels_last
tensors = [{f"{n}": torch.ones(64, 256, 16, 4).to(memory_format=layout) for n in range(24)}
           for layout in layouts]
grown({"first": torch.ones(4)})  # what a first call takes once
print(*(grown(each) / (4 << 20) for each in tensors))
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux's /proc")
def test_memory_does_not_grow_with_the_state(tmp_path: Path) -> None:
    command = [sys.executable, "-c", GROWTH, str(tmp_path / "file")]
    # Not where ./focaldet may be unbuilt.
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=tmp_path)
    contiguous, channels_last = map(float, done.stdout.split())
    # In tensors of 4 MB, of 24: none, or the buffer.
    assert contiguous < 0.5 and channels_last < 1.5, done.stdout


def test_the_metadata_are_where_others_look_for_them(tmp_path: Path) -> None:
    write(tmp_path / "file", TENSORS, TEXT)
    with safe_open(str(tmp_path / "file"), framework="pt") as file:
        assert file.metadata() == {"focaldet": TEXT, "sha256": SHA256}
