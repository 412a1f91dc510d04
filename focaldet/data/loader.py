"""Batches in a seeded order, loaded by worker processes, the same for any number of them."""

from __future__ import annotations

import signal
import sys
import warnings
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ..errors import UserError
from .dataset import DetectionDataset, SkippedImageWarning, Target
from .images import ImageError
from .transforms import seeded_generator

Item = tuple[Tensor, Target]
Batch = tuple[list[Tensor], list[Target]]
# What a worker sends: the items of a batch or an error, and the images skipped so far.
_Loaded = tuple[list[Item] | UserError, dict[int, str]]


def collate(items: Sequence[Item]) -> Batch:
    """Items to (list of images, list of targets): images keep their own sizes."""
    return [image for image, _ in items], [target for _, target in items]


class Batches:
    """The batches of a data set, epoch after epoch.

    Order and augmentation are functions of (seed, epoch) alone, so that a run repeats for any
    number of workers, and one that stopped after some batch of some epoch goes on exactly with
    ``epoch(e, start=batches_done)``. The last batch of an epoch may be smaller.

    Args:
        dataset: With its `skip_bad_images`, shuffled batches (training) take the next readable
            image in the place of a bad one, so that the number of steps does not depend on it;
            ordered batches (evaluation) leave it out, so that no image is seen twice.
        batch_size: Images in a batch.
        seed: Of the order and of the transforms, >= 0.
        workers: Processes that load ahead; 0 loads in this one. They start at the first batch and
            see the data set as it is then.
        shuffle: A new order every epoch; otherwise that of the data set.

    Raises:
        UserError: While iterating, in the caller's process whichever worker met it: one of the
            data set's errors.
    """

    def __init__(
        self,
        dataset: DetectionDataset,
        batch_size: int,
        *,
        seed: int = 0,
        workers: int = 0,
        shuffle: bool = False,
    ) -> None:
        if batch_size < 1 or workers < 0 or seed < 0:
            raise ValueError(
                "expected batch_size >= 1, workers >= 0, seed >= 0, "
                f"got {batch_size}, {workers}, {seed}"
            )
        self.dataset: DetectionDataset = dataset
        self.batch_size: int = batch_size
        self.seed: int = seed
        self.shuffle: bool = shuffle
        self._plan: list[list[tuple[int, int]]] = []  # keys (epoch, index) of the running epoch
        self._loader: DataLoader[_Loaded] = DataLoader(
            _Items(dataset, seed, replace=shuffle),
            batch_sampler=self._plan,
            num_workers=workers,
            persistent_workers=workers > 0,
            collate_fn=_as_is,
            worker_init_fn=_init_worker,
            generator=torch.Generator(),  # else every epoch draws from torch's global one
        )

    def __len__(self) -> int:
        """Batches in an epoch."""
        return -(-len(self.dataset) // self.batch_size)

    def order(self, epoch: int) -> list[int]:
        """The indices of the data set in the order of this epoch."""
        n = len(self.dataset)
        if not self.shuffle:
            return list(range(n))
        return torch.randperm(n, generator=seeded_generator(self.seed, epoch)).tolist()

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The batches of an epoch from number `start` on. One epoch runs at a time."""
        keys = [(epoch, index) for index in self.order(epoch)]
        size = self.batch_size
        self._plan[:] = [keys[i : i + size] for i in range(start * size, len(keys), size)]
        for items, skipped in self._loader:
            if isinstance(items, UserError):
                raise items
            for index, message in skipped.items():
                self.dataset.note_skipped(index, message)
            if items:
                yield collate(items)

    def __iter__(self) -> Iterator[Batch]:
        return self.epoch(0)


class _Items(Dataset[_Loaded]):
    """What the workers run: keys of one batch to its items, as (items or error, skipped images).

    Errors travel as values, because torch would raise them again with a worker's traceback inside
    the message; so do the records of skipped images, because the workers' copies of the data set
    are not the caller's.
    """

    def __init__(self, dataset: DetectionDataset, seed: int, *, replace: bool) -> None:
        self.dataset, self.seed, self.replace = dataset, seed, replace

    def __getitems__(self, keys: Sequence[tuple[int, int]]) -> _Loaded:
        items: list[Item] = []
        try:
            for epoch, index in keys:
                generator = seeded_generator(self.seed, epoch, index)
                if self.replace:
                    items.append(self.dataset.sample(index, generator))
                    continue
                try:
                    items.append(self.dataset.load(index, generator))
                except ImageError as error:
                    if not self.dataset.skip_bad_images:
                        raise
                    self.dataset.note_skipped(index, str(error))
        except UserError as error:
            return error, {}
        return items, dict(self.dataset.skipped)


def _as_is(batch: Any) -> Any:
    return batch


def _init_worker(worker: int) -> None:
    # Ctrl-C reaches every process of the terminal, but the main one alone ends the run.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.excepthook = _report_in_worker
    # A skipped image is reported once, by the main process.
    warnings.simplefilter("ignore", SkippedImageWarning)


def _report_in_worker(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    # Tensors reach the main process through a thread of the worker. When that process ends in
    # the middle of receiving one, the thread's connection breaks: no news to anyone.
    if not issubclass(kind, (ConnectionError, EOFError)):
        sys.__excepthook__(kind, error, trace)
