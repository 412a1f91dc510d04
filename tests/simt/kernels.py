"""The operators of the CUDA kernels on the host, and how tests reach them.

Each call runs under several schedules, which must agree to the bit: what a kernel computes may not
depend on who runs first, nor on what fresh memory holds.
"""

from __future__ import annotations

import ctypes
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

# In order, in reverse with two blocks at a time, and at random with three: see runtime.cpp.
SEEDS = (0, 1, 2)


class Kernels:
    """A library of kernels on the machine of this folder, loaded."""

    def __init__(self, library: Path, seeds: Sequence[int] = SEEDS) -> None:
        self.namespace = library.stem
        self.seeds = seeds
        self._one_at_a_time = threading.Lock()  # the machine is one, and autograd may use threads
        torch.ops.load_library(library)
        self._machine = ctypes.CDLL(str(library))
        self._machine.simt_seed.argtypes = [ctypes.c_uint64]
        self._machine.simt_launches.restype = ctypes.c_char_p

    def has(self, op: str) -> bool:
        name = f"{self.namespace}::{op}"
        return torch._C._dispatch_has_kernel_for_dispatch_key(name, "CPU")

    def call(self, op: str, *arguments: Any) -> Any:
        """The operator's result, which every schedule must give, as must what it writes over its
        arguments."""
        function = getattr(getattr(torch.ops, self.namespace), op).default
        written = [
            i for i, argument in enumerate(function._schema.arguments) if is_written(argument)
        ]
        results = []
        with self._one_at_a_time:
            for seed in self.seeds:
                self._machine.simt_seed(seed)
                own = [copied(a) if i in written else a for i, a in enumerate(arguments)]
                results.append((function(*own), [own[i] for i in written]))
        for seed, result in zip(self.seeds, results, strict=True):
            if bits(result) != bits(results[0]):
                raise AssertionError(
                    f"simt: {op} gives other bits under seed {seed} than under {self.seeds[0]}: "
                    f"{result} instead of {results[0]}"
                )
        result, values = results[-1]
        for target, value in zip(flat([arguments[i] for i in written]), flat(values), strict=True):
            target.copy_(value)
        return result

    def launches(self) -> dict[str, int]:
        """How often each kernel ran."""
        lines = self._machine.simt_launches().decode().splitlines()
        return {name: int(count) for count, name in (line.split(" ", 1) for line in lines)}

    @contextmanager
    def in_place_of_cpu(self) -> Iterator[None]:
        """Lets torch.ops.focaldet do on CPU tensors what it does on CUDA ones, on the machine."""
        own = torch.library.Library("focaldet", "IMPL")
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of what is meant: that these replace others
                for name in operators():
                    own.impl(name, self._caller(name), "CPU", allow_override=True)
            yield
        finally:
            own._destroy()

    @contextmanager
    def without(self, barrier: str) -> Iterator[None]:
        """Passes by the __syncthreads or __syncwarp in this line, "file:line"."""
        self._machine.simt_leave_out(barrier.encode())
        try:
            yield
        finally:
            self._machine.simt_leave_out(b"")

    @contextmanager
    def refused(self, error: int) -> Iterator[None]:
        """Every launch fails with this error of CUDA's."""
        self._machine.simt_refuse(error)
        try:
            yield
        finally:
            self._machine.simt_refuse(0)

    def _caller(self, op: str) -> Any:
        return lambda *arguments: self.call(op, *arguments)


def operators() -> list[str]:
    """The names of all operators of focaldet."""
    return [
        schema.name.removeprefix("focaldet::")
        for schema in torch._C._jit_get_all_schemas()
        if schema.name.startswith("focaldet::")
    ]


def is_written(argument: Any) -> bool:
    return argument.alias_info is not None and argument.alias_info.is_write


def copied(argument: Any) -> Any:
    """With the same strides."""
    if not isinstance(argument, Tensor):
        return [copied(each) for each in argument]
    return torch.empty_strided(argument.shape, argument.stride(), dtype=argument.dtype).copy_(
        argument
    )


def flat(result: Any) -> list[Tensor]:
    """The tensors of a result, which may be a tensor or lists and tuples of them."""
    if isinstance(result, Tensor):
        return [result]
    return [tensor for part in result for tensor in flat(part)]


def bits(result: Any) -> bytes:
    return b"|".join(
        repr((t.shape, t.dtype)).encode()
        + t.contiguous().flatten().view(torch.uint8).numpy().tobytes()
        for t in flat(result)
    )
