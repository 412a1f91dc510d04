"""The convolutions of a detector as `focaldet.models` takes them on the CPU."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ...models import winograd
from ._plan import Step
from ._report import Replaced
from ._swap import original


class Winograd(winograd.WinogradConv2d):
    """WinogradConv2d's forward; the weight is transformed in every call."""

    transformed = None


class ChannelsLast:
    """A convolution of channels_last maps, whose output is channels_last too."""

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() == 4:
            x = x.contiguous(memory_format=torch.channels_last)
        # That of nn.Conv2d, before which `swap` puts this class.
        result: Tensor = super().forward(x)  # type: ignore[misc]
        return result


WINOGRAD = "Winograd's algorithm", "3 of 4 multiplications, both ways, in float32 on the CPU"
LAYOUT = "channels_last", "reordering maps between convolutions"


def steps(model: nn.Module) -> list[Step]:
    """All plain convolutions: by Winograd's algorithm where that pays, or in its layout."""
    found: dict[tuple[type, tuple[str, str]], list[nn.Module]] = {}
    for module in model.modules():
        if isinstance(module, nn.Conv2d) and original(module) is nn.Conv2d:
            fast = winograd.suits(module)
            key = (Winograd, WINOGRAD) if fast else (ChannelsLast, LAYOUT)
            found.setdefault(key, []).append(module)
    made = []
    for (mixin, text), modules in found.items():
        rows = (Replaced(f"{len(modules)} convolutions", *text),)
        made += [Step(module, (mixin,), rows if i == 0 else ()) for i, module in enumerate(modules)]
    return made


def taken(model: nn.Module) -> bool:
    return any(isinstance(module, (Winograd, ChannelsLast)) for module in model.modules())
