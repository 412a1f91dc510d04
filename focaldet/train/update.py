"""One step of the optimizer: from the images of a batch, on however many processes, to new weights.

Losses are summed, not averaged, over the images of a micro-batch; DistributedDataParallel averages
the gradients over the processes; and one factor makes of them the gradient of the whole batch:
processes / max(1, foreground anchors of all). So a step does not depend, but for rounding, on how
its images are shared out. All that has to be known before the first forward is how large the batch
is, for each part of it is padded as the whole would be: padding has anchors, too. The count is
summed on the device, with all else that the processes must agree on, in one small all-reduce, and
the factor goes into the pass over the gradients that clips them.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ..data import Target
from ..distributed import Ranks
from ..models import Losses, RetinaNet
from ..models.transform import Targets, whole_strides
from .recipe import PRECISIONS, Recipe

MicroBatch = tuple[list[Tensor], list[Target]]

# The losses are sums over some hundred foreground anchors; torch's 2^16 is for means.
FIRST_SCALE = 2.0**10


class Outcome(NamedTuple):
    """What became of a step: of the whole batch, on all processes."""

    classification: float
    bbox_regression: float
    n_foreground: int
    grad_norm: float  # before clipping
    images: int
    stop: bool  # whether some process was asked to end
    problem: str | None  # what was not finite; then nothing was changed
    own_problem: bool  # whether this process's part of the losses was not finite
    overflow: bool  # the problem was the range of float16 alone; the scale is lower now


class Update:
    """A call is a step. If its losses or gradient are not finite, it leaves the model as it was."""

    def __init__(
        self,
        model: RetinaNet,
        optimizer: torch.optim.Optimizer,
        recipe: Recipe,
        ranks: Ranks,
        resize: bool = True,  # as the model does; or images are left at the size they come in
    ) -> None:
        self.model: RetinaNet = model
        self.resize: bool = resize
        self.optimizer: torch.optim.Optimizer = optimizer
        self.ranks: Ranks = ranks
        self.dtype: torch.dtype | None = PRECISIONS[recipe.precision]
        self.clip_norm: float = recipe.clip_norm or math.inf
        self.sync_norm: bool = recipe.sync_norm
        self.by_image: bool = model.config["normalizer"] == "image"
        self.scaler: torch.amp.GradScaler = torch.amp.GradScaler(
            ranks.device.type, init_scale=FIRST_SCALE, enabled=self.dtype == torch.float16
        )
        self.parameters: list[nn.Parameter] = [p for p in model.parameters() if p.requires_grad]
        self.statistics: list[Tensor] = list(statistics(model).values())
        self.before: list[Tensor] = [torch.empty_like(tensor) for tensor in self.statistics]
        losses = _Losses(model, None if self.by_image else 1.0)
        self.module: nn.Module = losses
        if ranks.world > 1:
            self.module = _distributed(losses, ranks.device)
        if recipe.compile:
            losses.compile()

    def __call__(
        self,
        parts: Sequence[MicroBatch],
        step: int,
        stop: Callable[[], bool] = lambda: False,
    ) -> Outcome:
        """Step number `step`, from this process's micro-batches, of which some may be empty. `stop`
        is asked late whether this process is to end after it."""
        # The empty ones stand last, and only norms that wait for each other need them all.
        last = len(parts) if self.sync_norm else max(1, sum(bool(images) for images, _ in parts))
        self.optimizer.zero_grad(set_to_none=True)
        if self.before:
            torch._foreach_copy_(self.before, self.statistics)
        self.ranks.at(step, "measuring")
        size = self._size(parts)
        sums = torch.zeros(5, dtype=torch.float64, device=self.ranks.device)
        for number, (images, targets) in enumerate(parts, start=1):
            if number > last:
                self.ranks.at(step, f"forward {number}")
                self.ranks.at(step, f"backward {number}")
                continue
            with self._waits(number == last):
                self.ranks.at(step, f"forward {number}")
                losses = self._forward(images, targets, size)
                self.ranks.at(step, f"backward {number}")
                total = losses.classification + losses.bbox_regression
                torch.autograd.backward(self.scaler.scale(total))
            sums[:3] += torch.stack([value.detach().double() for value in losses])
            sums[3] += len(images)
        own = sums[:2].isfinite().all()
        sums[4] = stop()
        self.ranks.sum(sums)
        divisor = sums[3 if self.by_image else 2].clamp(min=1)
        norm = self._scale_gradients(divisor)
        # The one time in a step that the host waits for a GPU.
        return self._finish(*torch.cat([sums, torch.stack([divisor, norm, own.double()])]).tolist())

    def _size(self, parts: Sequence[MicroBatch]) -> tuple[int, int]:
        """Height and width of the batch of all processes."""
        padded_size = self.model.transform.padded_size if self.resize else whole_strides
        sizes = [padded_size(*image.shape[-2:]) for images, _ in parts for image in images]
        height, width = self.ranks.maximum(torch.tensor([(0, 0), *sizes]).amax(0)).tolist()
        return height, width

    def _forward(
        self, images: list[Tensor], targets: list[Target], size: tuple[int, int]
    ) -> Losses:
        """The losses of a micro-batch, summed over its foreground anchors, or over its images."""
        transform, device = self.model.transform, self.ranks.device
        if images:
            images = [image.to(device, non_blocking=True) for image in images]
            batch, _, scales = transform.images(images, size, self.resize)
            truth = transform.targets(targets, scales, self.model.num_classes)
        else:
            batch, truth = _nothing(transform.mean)
        with torch.autocast(device.type, self.dtype, enabled=self.dtype is not None):
            losses: Losses = self.module(batch, *truth)
        if not self.by_image:
            return losses
        classification, bbox_regression = (part * len(images) for part in losses[:2])
        return Losses(classification, bbox_regression, losses.n_foreground)

    @contextmanager
    def _waits(self, waits: bool) -> Iterator[None]:
        """For a forward and a backward that end with the average of the processes' gradients, or
        only add to this one's."""
        if waits or not isinstance(self.module, DistributedDataParallel):
            yield
        else:
            with self.module.no_sync():
                yield

    def _scale_gradients(self, divisor: Tensor) -> Tensor:
        """From sums to clipped means. Returns the norm of the means before clipping."""
        self.scaler.unscale_(self.optimizer)
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        scale = self.ranks.world / divisor
        norm: Tensor = nn.utils.get_total_norm(gradients).double() * scale
        # As torch's clip_grad_norm_: never quite to the limit.
        factor = scale * (self.clip_norm / (norm + 1e-6)).clamp(max=1)
        torch._foreach_mul_(gradients, factor.to(gradients[0].dtype))
        return norm

    def _finish(
        self,
        classification: float,
        bbox_regression: float,
        n_foreground: float,
        images: float,
        stop: float,
        divisor: float,
        norm: float,
        own: float,
    ) -> Outcome:
        losses = {
            "classification": classification / divisor,
            "bbox_regression": bbox_regression / divisor,
            "grad_norm": norm,
        }
        bad = [f"{name} is {value}" for name, value in losses.items() if not math.isfinite(value)]
        if not bad:
            self.scaler.step(self.optimizer)
        elif self.before:
            torch._foreach_copy_(self.statistics, self.before)
        # Losses that are finite and gradients that are not: the range of float16, unless it is so
        # where they are not scaled any more.
        only_gradient = bad == [f"grad_norm is {norm}"]
        overflow = only_gradient and self.scaler.get_scale() > 1
        # Losses are not finite whatever the scale, which a bad image an epoch would lower for ever.
        keep = bad and not only_gradient
        self.scaler.update(self.scaler.get_scale() if keep else None)
        return Outcome(
            **losses,
            n_foreground=int(n_foreground),
            images=int(images),
            stop=stop > 0,
            problem=bad[0] if bad else None,
            own_problem=not own,
            overflow=overflow,
        )


class _Losses(nn.Module):
    """What is compiled and distributed: a call gives the losses of a batch."""

    unit: Tensor | None

    def __init__(self, model: RetinaNet, unit: float | None) -> None:
        super().__init__()
        self.model = model
        one = None if unit is None else torch.tensor(unit, device=model.transform.mean.device)
        self.register_buffer("unit", one, persistent=False)

    def forward(self, batch: Tensor, boxes: Tensor, labels: Tensor, splits: Tensor) -> Losses:
        return self.model.loss(batch, boxes, labels, splits, self.unit)


def _distributed(losses: _Losses, device: torch.device) -> DistributedDataParallel:
    """With its buckets settled: DistributedDataParallel lays out the gradients anew after its first
    backward, and where a number stands decides in which order those of three processes and more are
    added. A resumed run would round its first step otherwise, if a step were that backward."""
    with warnings.catch_warnings():  # newer versions prefer an argument that older ones lack
        warnings.filterwarnings("ignore", ".*forward_sync_buffers", FutureWarning)
        distributed = DistributedDataParallel(
            losses,
            device_ids=[device] if device.type == "cuda" else None,
            broadcast_buffers=False,  # no step reads the statistics of norms
            gradient_as_bucket_view=True,
        )
    batch, truth = _nothing(losses.model.transform.mean)
    losses.eval()  # norms take no notice
    nothing = distributed(batch, *truth)
    torch.autograd.backward(nothing.classification + nothing.bbox_regression)
    losses.train()
    return distributed


def statistics(model: nn.Module) -> dict[str, Tensor]:
    """What a forward in training changes: the statistics of norms."""
    buffers = dict(model.named_buffers())
    return {name: buffers[name] for name in model.state_dict() if name in buffers}


def _nothing(like: Tensor) -> tuple[Tensor, Targets]:
    """A batch without images."""
    integers = like.new_zeros(1, dtype=torch.int64)
    return like.new_zeros(0, 3, 64, 64), Targets(like.new_zeros(0, 4), integers[:0], integers)
