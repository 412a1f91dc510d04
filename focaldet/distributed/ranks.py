"""What the processes of one run do together."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Protocol, TypeVar, cast

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from ..errors import EndedElsewhere

T = TypeVar("T")
Columns = dict[str, np.ndarray]
Heads = dict[str, tuple[str, tuple[int, ...]]]  # dtype and shape of each column

CPU = torch.device("cpu")  # small things go through gloo, on GPUs, too


class Progress(Protocol):
    """Who is told how far this process has come: see `Watch`."""

    def at(self, step: int | None, phase: str) -> None: ...
    def patient(self, what: str) -> AbstractContextManager[None]: ...


@dataclass(frozen=True)
class Ranks:
    """This process among those of the run, and what they do together.

    All ranks call `sum`, `maximum`, `first`, `share` and `gather` in the same order. A process by
    itself calls them at no cost.

    Attributes:
        rank: of this process, in [0, world).
        world: the number of processes.
        device: where this process computes.
        watch: who is told of its progress; None if it is by itself.
        again: whether torchrun has started the processes of this run before.
    """

    rank: int
    world: int
    device: torch.device
    watch: Progress | None = None
    again: bool = False

    @property
    def main(self) -> bool:
        """Whether this is the rank that logs and writes."""
        return self.rank == 0

    def sum(self, values: Tensor) -> Tensor:
        """Adds up `values`, in place, over the ranks; the same shape and dtype on all of them."""
        if self.world > 1:
            dist.all_reduce(values)
        return values

    def maximum(self, values: Tensor) -> Tensor:
        """The largest over the ranks, in place, as `sum` adds up."""
        if self.world > 1:
            dist.all_reduce(values, dist.ReduceOp.MAX)
        return values

    def share(self, value: T) -> T:
        """Rank 0's value, on every rank: something small that can be pickled."""
        box = [value]
        if self.world > 1:
            dist.broadcast_object_list(box, src=0, device=CPU)
        return box[0]

    def first(self, task: Callable[[], T]) -> T:
        """What `task` returns on rank 0, which alone runs it; the others wait as long as it takes.

        Raises on every rank if it raises: there the error itself, elsewhere `EndedElsewhere`.
        """
        error: BaseException | None = None
        result: T | None = None
        if self.main:
            try:
                with self.patient("what rank 0 does alone"):
                    result = task()
            except Exception as caught:  # whatever it is, the others must not wait for ever
                error = caught
        told, result = self.share((f"{type(error).__name__}: {error}" if error else None, result))
        if error:
            raise error
        if told:
            raise EndedElsewhere(f"rank 0: {told}")
        return cast(T, result)

    def gather(self, columns: Columns) -> list[Columns] | None:
        """On rank 0 the columns of every rank, in their order; None elsewhere.

        The arrays may have any shapes, different ones on each rank, but hold no Python objects.
        """
        columns = {name: np.ascontiguousarray(values) for name, values in columns.items()}
        for name, values in columns.items():
            if values.dtype.hasobject:
                raise TypeError(f"{name}: expected numbers or fixed-length strings, got objects")
        if self.world == 1:
            return [columns]
        heads = {name: (values.dtype.str, values.shape) for name, values in columns.items()}
        if not self.main:
            dist.gather_object(heads, dst=0)
            for values in columns.values():
                if values.nbytes:
                    dist.send(_bytes(values), dst=0)
            return None
        everyone: list[Heads] = [heads] * self.world
        dist.gather_object(heads, everyone, dst=0)
        return [columns, *(_receive(everyone[rank], rank) for rank in range(1, self.world))]

    def at(self, step: int | None, phase: str) -> None:
        """Marks progress: this rank begins a phase of the step, or of the one before. Cheap.

        Every rank marks the same phases in the same order. One that marks nothing for too long
        while others wait for it is taken for hung; see `Watch`.
        """
        if self.watch:
            self.watch.at(step, phase)

    def patient(self, what: str) -> AbstractContextManager[None]:
        """For what may take long, such as scoring or compiling: only death ends the waiting."""
        return self.watch.patient(what) if self.watch else nullcontext()


def alone(device: str | torch.device | None = None) -> Ranks:
    """A process by itself; on a GPU where there is one, unless said otherwise."""
    return Ranks(0, 1, torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu")))


ALONE = alone("cpu")


def _bytes(values: np.ndarray) -> Tensor:
    """The memory of a contiguous array, as bytes."""
    return torch.from_numpy(values.reshape(-1).view(np.uint8))


def _receive(heads: Heads, rank: int) -> Columns:
    """The columns that another rank sends."""
    columns = {name: np.empty(shape, dtype) for name, (dtype, shape) in heads.items()}
    for values in columns.values():
        if values.nbytes:
            dist.recv(_bytes(values), src=rank)
    return columns
