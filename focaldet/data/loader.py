"""Batches in a seeded order, loaded by worker processes, the same for any number of them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import partial
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from ..errors import UserError
from .dataset import DetectionDataset, Target
from .images import ImageError
from .transforms import seeded_generator
from .workers import Workers

Item = tuple[Tensor, Target]
Batch = tuple[list[Tensor], list[Target]]
_Keys = Sequence[tuple[int, int]]  # (epoch, index) of the items of a batch
_T = TypeVar("_T")


class _Loaded(NamedTuple):
    """What a worker sends. Its copy of the data set is not the caller's, who learns so of what
    befell it; and an error of the data set is a value, so that it has no worker's traceback."""

    items: list[Item] | UserError
    skipped: dict[int, str]  # see DetectionDataset
    cache_stopped: str | None  # see PictureCache


def collate(items: Sequence[Item]) -> Batch:
    """Items to (list of images, list of targets): images keep their own sizes."""
    return [image for image, _ in items], [target for _, target in items]


class Batches:
    """The batches of a data set, epoch after epoch.

    Order and augmentation are functions of (seed, epoch) alone, so that a run repeats for any
    number of workers, and one that stopped after some batch of some epoch goes on exactly with
    ``epoch(e, start=batches_done)``. The last batch of an epoch may be smaller.

    Several processes that divide a batch among them read the same data set with the same seed,
    each with its own `rank` of `world`: all ranks together have every image of the batch exactly
    once. A rank's share comes in `parts` micro-batches, whose gradients are accumulated. Shares
    and parts are contiguous and as equal as can be, the first ones larger by one.

    Args:
        dataset: With its `skip_bad_images`, shuffled batches (training) take the next readable
            image in the place of a bad one, so that the number of steps does not depend on it;
            ordered batches (evaluation) leave it out, so that no image is seen twice.
        batch_size: Images in a batch, over all ranks and parts.
        seed: Of the order and of the transforms, >= 0.
        workers: Processes that load ahead; 0 loads in this one. They start at the first batch and
            see the data set as it is then. One that dies is replaced, with a `WorkerWarning`;
            no batch depends on which worker made it.
        shuffle: A new order every epoch; otherwise that of the data set.
        rank, world: This process's number, and how many there are.
        parts: Micro-batches in a rank's share of a batch.
        pin: Images arrive in pinned memory, from which a copy to a GPU does not wait.
        timeout: Seconds to wait for a batch of a worker, after which that is an error. (A
            `WorkerWarning` names the images that are waited for after 30.)

    Raises:
        UserError: While iterating, in the caller's process whichever worker met it: one of the
            data set's errors; and where workers die again and again at the same images, or the
            timeout is over.
    """

    def __init__(
        self,
        dataset: DetectionDataset,
        batch_size: int,
        *,
        seed: int = 0,
        workers: int = 0,
        shuffle: bool = False,
        rank: int = 0,
        world: int = 1,
        parts: int = 1,
        pin: bool = False,
        timeout: float = math.inf,
    ) -> None:
        if batch_size < 1 or workers < 0 or seed < 0:
            raise ValueError(
                "expected batch_size >= 1, workers >= 0, seed >= 0, "
                f"got {batch_size}, {workers}, {seed}"
            )
        if not 0 <= rank < world or parts < 1:
            raise ValueError(
                f"expected 0 <= rank < world and parts >= 1, got {rank}, {world}, {parts}"
            )
        self.dataset: DetectionDataset = dataset
        self.batch_size: int = batch_size
        self.seed: int = seed
        self.shuffle: bool = shuffle
        self.rank: int = rank
        self.world: int = world
        self.parts: int = parts
        self.pin: bool = pin
        self._load = partial(_load, dataset, seed, shuffle)
        self._workers: Workers[_Keys, _Loaded] | None = None
        if workers:
            self._workers = Workers(self._load, workers, partial(_name, dataset), timeout)

    def __len__(self) -> int:
        """Batches in an epoch, each of all ranks and parts together."""
        return -(-len(self.dataset) // self.batch_size)

    def order(self, epoch: int) -> list[int]:
        """The indices of the data set in the order of this epoch."""
        n = len(self.dataset)
        if not self.shuffle:
            return list(range(n))
        return torch.randperm(n, generator=seeded_generator(self.seed, epoch)).tolist()

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """This rank's micro-batches of an epoch, from batch number `start` on.

        In training (shuffled) there are exactly `parts` to every batch, those without images
        ``([], [])``, so that every rank does as many steps; in evaluation those are left out.
        One epoch runs at a time.
        """
        planned = self._planned(epoch, start)
        loaded = self._workers.map(planned) if self._workers else map(self._load, planned)
        for items, skipped, cache_stopped in loaded:
            if isinstance(items, UserError):
                raise items
            for index, message in skipped.items():
                self.dataset.note_skipped(index, message)
            if cache_stopped and self.dataset.cache:
                self.dataset.cache.stop(cache_stopped)
            if items or self.shuffle:
                images, targets = collate(items)
                yield [image.pin_memory() for image in images] if self.pin else images, targets

    def _planned(self, epoch: int, start: int) -> Iterator[_Keys]:
        """The keys of each micro-batch of this rank."""
        order = self.order(epoch)
        for first in range(start * self.batch_size, len(order), self.batch_size):
            whole = order[first : first + self.batch_size]
            share = _part(whole, self.rank, self.world)
            for number in range(self.parts):
                indices = _part(share, number, self.parts)
                if indices or self.shuffle:
                    yield [(epoch, index) for index in indices]

    def __iter__(self) -> Iterator[Batch]:
        return self.epoch(0)


def _load(dataset: DetectionDataset, seed: int, replace: bool, keys: _Keys) -> _Loaded:
    """What the workers do: the keys of a batch to its items."""
    items: list[Item] = []
    try:
        for epoch, index in keys:
            generator = seeded_generator(seed, epoch, index)
            if replace:
                items.append(dataset.sample(index, generator))
                continue
            try:
                items.append(dataset.load(index, generator))
            except ImageError as error:
                if not dataset.skip_bad_images:
                    raise
                dataset.note_skipped(index, str(error))
    except UserError as error:
        return _Loaded(error, {}, None)
    stopped = dataset.cache.stopped if dataset.cache else None
    return _Loaded(items, dict(dataset.skipped), stopped)


def _name(dataset: DetectionDataset, keys: _Keys) -> str:
    names = [dataset.file_name(index) for _, index in keys]
    return f"the images {', '.join(names)}" if names else "no image at all"


def _part(items: Sequence[_T], number: int, parts: int) -> Sequence[_T]:
    """One of `parts` contiguous parts, as equal as can be: the first are longer by one."""
    size, longer = divmod(len(items), parts)
    first = number * size + min(number, longer)
    return items[first : first + size + (number < longer)]
