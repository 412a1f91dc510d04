"""Objects from one process to another, without files and without reading what is large.

A message is one anonymous file in memory (memfd), whose descriptor travels through a socket as one
packet. In it stand a pickle and the large arrays that it refers to, which the receiver maps. So a
message arrives whole or not at all, whenever the sender is killed; it needs neither the sender
afterwards nor room in /dev/shm, of which containers have little; and it leaves nothing behind.
"""

from __future__ import annotations

import errno
import io
import mmap
import os
import pickle
import socket
from itertools import accumulate
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import UserError

ALIGNMENT = 64  # bytes: of arrays, for vector instructions
# Smaller arrays travel inside the pickle: a label that is kept does not keep its batch's images.
LARGE = 4096  # bytes
TOO_MANY = (
    "too many open files: every batch that is kept is one; expected a higher ulimit -n, or fewer "
    "batches kept"
)


def channel() -> tuple[socket.socket, socket.socket]:
    """Two ends; what one sends the other receives. A closed end is `EOFError` at the other."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


def send(end: socket.socket, value: Any) -> None:
    """Raises `ConnectionError` where the other end is gone, another `OSError` out of memory."""
    stream, arrays = io.BytesIO(), list[pickle.PickleBuffer]()

    def kept_inside(array: pickle.PickleBuffer) -> bool:
        if array.raw().nbytes < LARGE:
            return True
        arrays.append(array)
        return False

    _Pickler(stream, protocol=5, buffer_callback=kept_inside).dump(value)
    parts = [stream.getbuffer(), *(array.raw() for array in arrays)]
    sizes = np.array([part.nbytes for part in parts], np.int64)
    with open(os.memfd_create("focaldet"), "wb") as file:
        for part in (sizes.data, *parts):
            file.write(part)
            file.write(bytes(-part.nbytes % ALIGNMENT))
        file.flush()
        packet = len(sizes).to_bytes(8, "little")
        socket.send_fds(end, [packet], [file.fileno()])


def receive(end: socket.socket) -> Any:
    """The next message, waited for. Raises `EOFError` where the other end is gone."""
    packet, descriptors, _, _ = socket.recv_fds(end, 8, 1)
    if not packet:
        raise EOFError("the other process has ended")
    if not descriptors:  # the kernel drops what it can't give a number
        raise UserError(TOO_MANY)
    try:
        content = memoryview(mmap.mmap(descriptors[0], 0))  # lives as long as an array in it
    except OSError as error:  # it has a descriptor of its own
        if error.errno != errno.EMFILE:
            raise
        raise UserError(TOO_MANY) from error
    finally:
        os.close(descriptors[0])
    count = int.from_bytes(packet, "little")
    sizes = np.frombuffer(content, np.int64, count).tolist()
    starts = accumulate((_aligned(size) for size in sizes), initial=_aligned(8 * count))
    parts = [content[start : start + size] for start, size in zip(starts, sizes, strict=False)]
    return pickle.loads(parts[0], buffers=parts[1:])


class _Pickler(pickle.Pickler):
    """Tensors travel as arrays, which can stay outside the pickle."""

    def reducer_override(self, value: Any) -> Any:
        if type(value) is Tensor and value.device.type == "cpu" and not value.requires_grad:
            try:
                return torch.from_numpy, (value.numpy(),)
            except TypeError:  # bfloat16, sparse
                pass
        return NotImplemented


def _aligned(size: int) -> int:
    return size + -size % ALIGNMENT
