"""A case: one function on one input, its providers, and whether what they give agrees."""

from __future__ import annotations

import pkgutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

FORWARD, BACKWARD, BOTH = WAYS = ("forward", "backward", "both")
# The largest difference between results, relative to the largest value, that passes for equal.
TOLERANCE = {
    torch.float32: 1e-4,
    torch.bfloat16: 2e-2,
    torch.float16: 2e-2,
}


# What is timed ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Consuming:
    """A run that uses up its input, which `make` makes for every call, off the clock."""

    make: Callable[[], Any]
    use: Callable[[Any], Any]

    def __call__(self) -> Any:
        return self.use(self.make())


Run = Callable[[], Any]  # or a Consuming


@dataclass
class Differentiable:
    """What a provider runs that has a gradient: it can be timed forward, backward and both ways.

    The gradient is that of the sum of what it gives; where this is no scalar, the ones that come in
    are made once, in a first call.

    Forward is the forward of training, and saves what its backward needs. A backward uses up a
    forward, which is made for every call off the clock: a graph that is kept would be another, as
    some losses write their gradient over what they have saved.
    """

    outputs: Callable[[], Sequence[Tensor]]
    leaves: Sequence[Tensor]
    incoming: Sequence[Tensor] = ()

    def __call__(self) -> tuple[Tensor, ...]:
        outputs = self.outputs()
        return *outputs, *self.gradients(outputs)

    def gradients(self, outputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        if all(each.dim() == 0 for each in outputs):
            return torch.autograd.grad(outputs, self.leaves)
        if not self.incoming:
            self.incoming = [torch.ones_like(each) for each in outputs]
        return torch.autograd.grad(outputs, self.leaves, self.incoming)

    def one_way(self, way: str) -> Run:
        if way == BACKWARD:
            return Consuming(self.outputs, self.gradients)
        return self.outputs if way == FORWARD else self


Provider = Callable[[Any], Run]  # prepares what is not timed, returns what is


def call(function: str, arguments: Callable[[Any], tuple[Any, ...]]) -> Provider:
    """The provider that calls "module:function" with what `arguments` picks of the inputs. The
    module is imported when a run is prepared, so that a peer may be missing."""
    return lambda inputs: partial(pkgutil.resolve_name(function), *arguments(inputs))


class Work(NamedTuple):
    """What any implementation must do at least. Bytes: those of inputs and results."""

    read: int = 0
    written: int = 0
    operations: float | None = None  # arithmetic ones, where they say more than the bytes

    @property
    def moved(self) -> int:
        return self.read + self.written


@dataclass(frozen=True)
class Case:
    """One function on one input.

    `inputs` makes them, so that those of one case are in memory at a time. `work`: by way, or None
    where memory is no useful limit. It is None for backward: how much of it forward has done
    already is a provider's choice. `skip`: providers left out here, and why. `beside`: what else is
    timed in turns with them, but not compared.
    """

    name: str
    inputs: Callable[[], Any]
    providers: Mapping[str, Provider]
    sizes: Mapping[str, int] = field(default_factory=dict)
    ways: Sequence[str] = (FORWARD,)  # several: the providers' runs are Differentiable
    work: Callable[[Any, str], Work | None] = lambda inputs, way: None
    skip: Mapping[str, str] = field(default_factory=dict)
    beside: Mapping[str, Provider] = field(default_factory=dict)
    differ: Callable[[Any, Any, float], str | None] | None = None  # instead of `difference`


# Agreement --------------------------------------------------------------------------------------


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
