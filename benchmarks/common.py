"""What the benchmark files share: inputs, cases, the comparison of results, and the clock.

A file here is one operator family. Its `cases(setup)` yields a `Case` for each function and size:
the inputs, one provider per implementation, and the bytes that any implementation must move.
"""

from __future__ import annotations

import math
import pkgutil
import timeit
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from focaldet import AnchorGrid, Anchors

from .report import COPY, Row

IMAGE = (800, 1333)  # height, width: the usual size
THUMBNAIL = (64, 90)  # with --quick
PROVIDERS = ("focaldet", "reference", "torchvision")
# The largest difference between results, relative to the largest value, that passes for equal.
TOLERANCE = {
    torch.float32: 1e-4,
    torch.bfloat16: 2e-2,
    torch.float16: 2e-2,
}
SLOW = 0.1  # seconds; on the CPU a first call that takes longer is warm-up enough
SHORTEST = 5e-3  # seconds; faster calls are repeated until they add up to this
LONGEST = 30.0  # seconds; a case stops after this, but not before LEAST_ROUNDS
LEAST_ROUNDS = 3

Run = Callable[[], Any]  # or a Consuming
Provider = Callable[[Any], Run]  # prepares what is not timed, returns what is


# Inputs -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Setup:
    """Where, in what type and how large. Random inputs are drawn on the CPU, and so are the same
    on every device."""

    device: torch.device
    dtype: torch.dtype
    image: tuple[int, int]  # height, width
    quick: bool

    def random(self, seed: int) -> torch.Generator:
        return torch.Generator().manual_seed(seed)

    @property
    def padded(self) -> tuple[int, int]:
        height, width = (-(-side // 32) * 32 for side in self.image)
        return height, width

    @property
    def anchors(self) -> Anchors:
        """torchvision's on P3 to P7: 201,600 for an image of 800 x 1333."""
        height, width = self.padded
        strides = (8, 16, 32, 64, 128)
        sizes = [(-(-height // stride), -(-width // stride)) for stride in strides]
        return AnchorGrid.torchvision().at(sizes, self.padded)


class Truth(NamedTuple):
    boxes: Tensor  # [T, 4]
    labels: Tensor  # int64 [T]
    splits: Tensor  # int64 [B + 1]

    def by_image(self) -> list[dict[str, Tensor]]:
        """As torchvision's models take it."""
        starts = self.splits[1:-1].cpu()
        parts = zip(self.boxes.tensor_split(starts), self.labels.tensor_split(starts), strict=True)
        return [{"boxes": boxes, "labels": labels} for boxes, labels in parts]


def random_boxes(setup: Setup, n: int, seed: int, smallest: int = 16, largest: int = 256) -> Tensor:
    """[n, 4], uniform over the image, in steps of 1/8 pixel: torchvision tells classes apart by
    shifting coordinates, which is exact for these, so that results can be compared to the bit."""
    random, (height, width) = setup.random(seed), setup.image
    size = torch.rand(n, 2, generator=random) * (largest - smallest) + smallest
    center = torch.rand(n, 2, generator=random) * torch.tensor([width, height])
    boxes = torch.cat([center - size / 2, center + size / 2], dim=1)
    return ((boxes * 8).round() / 8).to(setup.device, setup.dtype)


def ground_truth(setup: Setup, batch: int, classes: int, per_image: int = 20) -> Truth:
    n = batch * per_image
    labels = torch.randint(classes, (n,), generator=setup.random(1)).to(setup.device)
    splits = torch.arange(0, n + 1, per_image, device=setup.device)
    return Truth(random_boxes(setup, n, seed=2).float(), labels, splits)


def head_maps(
    setup: Setup, batch: int, classes: int, mean: float = -6.5
) -> tuple[list[Tensor], list[Tensor]]:
    """Raw class and box maps by level, as a trained head gives them: of the scores, about 2 in
    10,000 exceed 0.05 with this mean of the logits."""
    random, grid = setup.random(3), setup.anchors

    def maps(channels: int, mean: float, std: float) -> list[Tensor]:
        return [
            (torch.randn(batch, channels, *size, generator=random) * std + mean).to(
                setup.device, setup.dtype
            )
            for size in grid.feature_sizes
        ]

    return maps(grid.per_position * classes, mean, 1.0), maps(grid.per_position * 4, 0.0, 0.2)


# Cases ------------------------------------------------------------------------------------------


def call(function: str, arguments: Callable[[Any], tuple[Any, ...]]) -> Provider:
    """The provider that calls "module:function" with what `arguments` picks of the inputs. The
    module is imported when a run is prepared, so that a peer may be missing."""
    return lambda inputs: partial(pkgutil.resolve_name(function), *arguments(inputs))


@dataclass(frozen=True)
class Consuming:
    """A run that uses up its input, which `make` makes for every call, off the clock."""

    make: Callable[[], Any]
    use: Callable[[Any], Any]

    def __call__(self) -> Any:
        return self.use(self.make())


@dataclass(frozen=True)
class Case:
    """One function at one size. `moved`: the bytes that must be read and written at least once, or
    None where memory is no useful limit. `skip`: providers left out here, and why. `beside`: what
    else is timed in turns with them, but not compared."""

    name: str
    inputs: Any
    providers: Mapping[str, Provider]
    moved: int | None = None
    skip: Mapping[str, str] = field(default_factory=dict)
    beside: Mapping[str, Run] = field(default_factory=dict)
    differ: Callable[[Any, Any, float], str | None] | None = None  # instead of `difference`


def difference(result: Any, expected: Any, tolerance: float) -> str | None:
    """How two results, tensors or nested sequences of them, disagree; None if they agree."""
    if not isinstance(expected, Tensor):
        if len(result) != len(expected):
            return f"{len(result)} results instead of {len(expected)}"
        pairs = zip(result, expected, strict=True)
        found = (difference(r, e, tolerance) for r, e in pairs)
        return next((text for text in found if text), None)
    if result.shape != expected.shape:
        return f"shape {list(result.shape)} instead of {list(expected.shape)}"
    if expected.numel() == 0:
        return None
    if not expected.is_floating_point():
        wrong = int((result != expected).sum())
        return f"{wrong} of {expected.numel()} integers differ" if wrong else None
    result, expected = result.detach().double(), expected.detach().double()
    error, largest = float((result - expected).abs().max()), float(expected.abs().max())
    if error <= tolerance * largest:  # False for NaN
        return None
    return f"differs by up to {error:.3g} where values reach {largest:.3g}"


# The clock --------------------------------------------------------------------------------------


def clock() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return timeit.default_timer()


def seconds_of(run: Run, calls: int) -> float:
    """Seconds of one call."""
    if not isinstance(run, Consuming):
        return timeit.timeit(run, timer=clock, number=calls) / calls
    made = (partial(run.use, run.make()) for _ in range(calls))
    return sum(timeit.timeit(use, timer=clock, number=1) for use in made) / calls


def copy_of(moved: int, device: torch.device) -> Run:
    """Copies moved / 2 bytes into memory that is in use: the time that moving `moved` bytes takes.

    Into new memory a copy takes several times as long, for the system hands out each page first.
    """
    source = torch.ones(max(1, moved // 8), device=device)
    target = torch.ones_like(source)
    return lambda: target.copy_(source)


def measure(op: str, case: Case, setup: Setup, wanted: Sequence[str], rounds: int) -> list[Row]:
    """Compares the providers' results, then times those that agree, in turns."""
    names = [name for name in case.providers if name in wanted]
    rows = {name: Row(op, case.name, name, case.moved) for name in names}
    runs, once = {}, {}
    # On CUDA a first call may be slow because it loads its kernels.
    warm = SLOW if setup.device.type == "cpu" else math.inf
    for name, run, seconds in _agreeing(case, setup, rows):
        runs[name] = run
        once[name] = seconds if seconds > warm else seconds_of(run, 1)
    beside = dict(case.beside)
    if case.moved is not None:
        beside[COPY] = copy_of(case.moved, setup.device)
    for name, run in beside.items():
        rows[name] = Row(op, case.name, name, case.moved)
        runs[name] = run
        run()
        once[name] = seconds_of(run, 1)

    names, spent = list(runs), 0.0
    shortest = SHORTEST / 5 if setup.quick else SHORTEST
    calls = {name: max(1, round(shortest / once[name])) for name in names}
    for turn in range(rounds):
        if turn >= LEAST_ROUNDS and spent > LONGEST:
            break
        first = turn % len(names) if names else 0  # nobody always follows the same neighbour
        for name in names[first:] + names[:first]:
            seconds = seconds_of(runs[name], calls[name])
            rows[name].seconds.append(float(f"{seconds:.5g}"))
            spent += seconds * calls[name]
    return list(rows.values())


def _agreeing(case: Case, setup: Setup, rows: dict[str, Row]) -> Iterator[tuple[str, Run, float]]:
    """The providers to time, and the seconds of a first call; the others' rows get a note. What the
    reference says is right, or what focaldet says where the reference is left out."""
    runs: dict[str, Run] = {}
    results: dict[str, Any] = {}
    seconds: dict[str, float] = {}
    for name, row in rows.items():
        if name in case.skip:
            row.note = f"left out: {case.skip[name]}"
            continue
        try:
            runs[name] = case.providers[name](case.inputs)
            start = clock()
            results[name] = runs[name]()
            seconds[name] = clock() - start
        except ModuleNotFoundError as error:
            row.note = f"{error.name} is not installed"
        except Exception as error:  # a peer may lack a dtype or a device, or run out of memory
            reason = (str(error).strip() or "no reason given").splitlines()[0]
            row.note = f"fails: {type(error).__name__}: {reason}"
    base = next((name for name in ("reference", *rows) if name in results), None)
    for name, result in results.items():
        text = (case.differ or difference)(result, results[base], TOLERANCE[setup.dtype])
        if text:
            rows[name].note = f"disagrees with {base}: {text}"
        else:
            yield name, runs[name], seconds[name]
