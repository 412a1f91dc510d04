"""One safetensors file of tensors and a text, with a hash of all: `write` and `read`.

Any safetensors reader opens it: the text and the hash stand in the header's metadata. It is written
here, and not by that package, because the tensors of a training run are on a GPU or in
channels_last, and the whole of them would be copied before the first byte is out. Here each is
brought into order by itself, and is on its way to the disk while it is hashed.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from .errors import UserError

_TEXT, _HASH = "focaldet", "sha256"
_NO_HASH = "0" * 64  # holds its place, for the hash is known last
_LARGE = 1 << 16  # bytes of a tensor that the disk may begin with at once
_DTYPES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16",
    torch.int64: "I64", torch.int32: "I32", torch.int16: "I16", torch.int8: "I8",
    torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip


class DamagedCheckpoint(UserError):
    """The file is missing, truncated, altered, or no checkpoint at all; an older one may help."""


def write(path: str | Path, tensors: Mapping[str, Tensor], text: str) -> None:
    """Writes the file in place; a caller who is to see it whole or not at all writes elsewhere and
    renames. Takes memory for one tensor, if some are elsewhere or not contiguous, else for none."""
    header, offsets = _header(tensors, text)
    largest = max((t.nbytes for t in tensors.values() if not _in_order(t)), default=0)
    buffer = torch.empty(largest, dtype=torch.uint8)
    digest = hashlib.sha256(text.encode())
    with open(path, "wb") as file, _one_thread():
        file.write(header)
        end = len(header)
        for name in sorted(tensors):
            tensor = _ordered(tensors[name].detach(), buffer)
            if offsets[name] != end:  # a seek would write out what is gathered of small tensors
                file.seek(offsets[name])
            file.write(_bytes(tensor))
            end = offsets[name] + tensor.nbytes
            if tensor.nbytes >= _LARGE:
                _start_writing(file.fileno(), offsets[name], tensor.nbytes)
            _update(digest, name, tensor)
        file.seek(header.index(_NO_HASH.encode()))
        file.write(digest.hexdigest().encode())


def read(path: Path) -> tuple[dict[str, Tensor], str]:
    """The tensors and the text of a file that `write` wrote, or `DamagedCheckpoint`."""
    if not path.is_file():
        raise DamagedCheckpoint(
            f"{path}: no such checkpoint; expected a file written by focaldet train"
        )
    try:
        with safe_open(str(path), framework="pt") as file:
            metadata = file.metadata() or {}
            if _TEXT not in metadata or _HASH not in metadata:
                raise DamagedCheckpoint(
                    f"{path}: a safetensors file, but not a checkpoint of focaldet; "
                    "focaldet convert makes one of other packages' weights"
                )
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise DamagedCheckpoint(
            f"{path}: not a focaldet checkpoint, or a truncated one ({error}); "
            "expected a .safetensors file written by focaldet train, or by focaldet convert from "
            "other packages' weights"
        ) from error
    digest = hashlib.sha256(metadata[_TEXT].encode())
    for name in sorted(tensors):
        _update(digest, name, tensors[name])
    if digest.hexdigest() != metadata[_HASH]:
        raise DamagedCheckpoint(
            f"{path}: damaged checkpoint: its contents do not match their SHA-256 hash; "
            "copy it again, or take another"
        )
    return tensors, metadata[_TEXT]


def _header(tensors: Mapping[str, Tensor], text: str) -> tuple[bytes, dict[str, int]]:
    """All that stands before the data, with room for the hash, and where each tensor begins."""
    # The hash first, so that its place is the first in which its zeros stand.
    table: dict[str, Any] = {"__metadata__": {_HASH: _NO_HASH, _TEXT: text}}
    end = 0
    # Wide elements first, as safetensors has it: in a file mapped to memory each is aligned.
    for name in sorted(tensors, key=lambda name: (-tensors[name].element_size(), name)):
        tensor = tensors[name]
        if tensor.dtype not in _DTYPES:
            raise TypeError(f"{name}: expected a dtype of {[*_DTYPES]}, got {tensor.dtype}")
        start, end = end, end + tensor.nbytes
        table[name] = {
            "dtype": _DTYPES[tensor.dtype], "shape": [*tensor.shape], "data_offsets": [start, end]
        }  # fmt: skip
    encoded = json.dumps(table, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % 8)
    header = len(encoded).to_bytes(8, "little") + encoded
    table.pop("__metadata__")
    return header, {name: len(header) + entry["data_offsets"][0] for name, entry in table.items()}


def _in_order(tensor: Tensor) -> bool:
    return tensor.device.type == "cpu" and tensor.is_contiguous()


def _ordered(tensor: Tensor, buffer: Tensor) -> Tensor:
    """The tensor itself if its memory is as in the file, else a copy in the buffer."""
    if _in_order(tensor):
        return tensor
    return buffer[: tensor.nbytes].view(tensor.dtype).view(tensor.shape).copy_(tensor)


@contextmanager
def _one_thread() -> Iterator[None]:
    """For hundreds of short copies, at each of which several threads would wait for the slowest:
    on a busy machine, as one whose processors load images, for longer than all else takes."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _update(digest: Any, name: str, tensor: Tensor) -> None:
    digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
    digest.update(_bytes(tensor))


def _bytes(tensor: Tensor) -> memoryview:
    """The memory of a contiguous tensor on the CPU."""
    return tensor.reshape(-1).view(torch.uint8).numpy().data


def _start_writing(handle: int, offset: int, size: int) -> None:
    """Has the system begin with what a sync would have to wait for; it may well not."""
    with suppress(OSError):
        os.posix_fadvise(handle, offset, size, os.POSIX_FADV_DONTNEED)
