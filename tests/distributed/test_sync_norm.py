"""Synchronised BatchNorm on shares of a batch: what nn.BatchNorm2d gives for the whole of it."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from processes import run_ranks, told
from torch import Tensor, nn

from focaldet.distributed import Ranks, SyncBatchNorm, join, synchronise

CHANNELS, SHARES = 5, (2, 0, 3)  # images of each rank
OPTIONS: tuple[dict[str, Any], ...] = (
    {},
    {"affine": False},
    {"momentum": None},
    {"track_running_stats": False},
    {"eps": 0.1, "momentum": 0.3},
)
Results = dict[str, Tensor]


def results(norm: nn.Module, steps: list[tuple[Tensor, Tensor]]) -> Results:
    """Of several training steps, each of an input and a gradient."""
    found = {}
    for number, (x, g) in enumerate(steps):
        leaf = x.clone(memory_format=torch.preserve_format).requires_grad_()
        y = norm(leaf)
        assert y.stride() == x.stride() and y.dtype == x.dtype
        y.backward(g)
        assert leaf.grad is not None
        found |= {f"output {number}": y.detach(), f"gradient {number}": leaf.grad}
    found |= {f"gradient of {k}": p.grad for k, p in norm.named_parameters() if p.grad is not None}
    return found | dict(norm.named_buffers())


def batches(dtype: torch.dtype, layout: torch.memory_format) -> list[tuple[Tensor, Tensor]]:
    """The mean is six deviations off zero, as raw sums of squares would not survive in float32."""
    torch.manual_seed(5)
    pairs = [torch.randn(2, sum(SHARES), CHANNELS, 4, 6, dtype=torch.float64) for _ in range(3)]
    return [
        (
            (pair[0] * 0.5 + 3).to(dtype).contiguous(memory_format=layout),
            pair[1].to(dtype).contiguous(memory_format=layout),
        )
        for pair in pairs
    ]


def a_norm(dtype: torch.dtype, **options: Any) -> nn.BatchNorm2d:
    norm = nn.BatchNorm2d(CHANNELS, **options).to(torch.promote_types(dtype, torch.float32))
    torch.manual_seed(6)
    for parameter in norm.parameters():
        nn.init.uniform_(parameter, 0.5, 2.0)
    return norm


def share_of(ranks: Ranks, whole: Tensor) -> Tensor:
    start = sum(SHARES[: ranks.rank])
    return whole[start : start + SHARES[ranks.rank]]


def shares() -> None:
    with join("cpu") as ranks:
        for dtype in (torch.float64, torch.float32, torch.bfloat16):
            for layout in (torch.contiguous_format, torch.channels_last):
                for options in OPTIONS:
                    compare(ranks, dtype, layout, options)


def compare(
    ranks: Ranks, dtype: torch.dtype, layout: torch.memory_format, options: dict[str, Any]
) -> None:
    steps = batches(dtype, layout)
    norm = a_norm(dtype, **options)
    exact = results(copy.deepcopy(norm).double(), [(x.double(), g.double()) for x, g in steps])
    theirs = results(copy.deepcopy(norm), steps)
    assert synchronise(norm) == 1 and type(norm) is SyncBatchNorm
    ours = results(norm, [(share_of(ranks, x), share_of(ranks, g)) for x, g in steps])
    assert ours.keys() == theirs.keys()
    for name, found in ours.items():
        expected = exact[name]
        if name.startswith("gradient of"):
            found = ranks.sum(found.double())
        elif found.dim() == 4:
            expected, theirs[name] = share_of(ranks, expected), share_of(ranks, theirs[name])
        else:
            assert torch.equal(found, ranks.share(found)), f"{name} differs between ranks"
        if not found.numel():
            continue
        error = (found.double() - expected).abs().max().item()
        allowed = (theirs[name].double() - expected).abs().max().item()
        # What nn.BatchNorm2d is off, twice, for the shares' sums are rounded in another order, and
        # two roundings of the result.
        unit = 2 * torch.finfo(theirs[name].dtype if found.is_floating_point() else dtype).eps
        allowed = 2 * allowed + unit * expected.abs().max().item()
        if dtype == torch.float64:
            allowed = 1e-12
        case = f"{name}, {dtype}, {layout}, {options}"
        assert error <= allowed, f"{case}: off by {error:.2e}, allowed {allowed:.2e}"


def test_shares_on_three_ranks_one_of_them_empty() -> None:
    ranks = run_ranks(shares, world=3)
    assert [(rank.code, rank.output) for rank in ranks] == [(0, "")] * 3, told(ranks)


def one_pixel() -> None:
    with join("cpu") as ranks:
        norm = a_norm(torch.float32)
        synchronise(norm)
        norm(torch.ones(1, CHANNELS, 1, 1))  # two pixels over all ranks will do
        with pytest.raises(ValueError, match="more than one pixel a channel over all ranks"):
            norm(torch.ones(1 - ranks.rank, CHANNELS, 1, 1))
        before = copy.deepcopy(norm.state_dict())
        norm(torch.ones(0, CHANNELS, 1, 1))
        assert all(torch.equal(before[key], value) for key, value in norm.state_dict().items())


def test_one_pixel_over_all_ranks_has_no_variance() -> None:
    ranks = run_ranks(one_pixel)
    assert [(rank.code, rank.output) for rank in ranks] == [(0, "")] * 2, told(ranks)


def test_evaluation_is_that_of_batch_norm() -> None:
    norm = a_norm(torch.float32).eval()
    other = copy.deepcopy(norm)
    synchronise(other)
    x = batches(torch.float32, torch.channels_last)[0][0]
    assert torch.equal(norm(x), other(x))


class BatchNormAct2d(nn.BatchNorm2d):
    """As timm has it."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.drop, self.act = nn.Identity(), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.drop(super().forward(x)))


def test_an_activation_inside_of_the_norm_stays() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), BatchNormAct2d(4), nn.BatchNorm2d(4))
    names, x = list(model.state_dict()), torch.randn(2, 3, 4, 4)
    expected = copy.deepcopy(model)(x)
    assert synchronise(model) == 2
    assert list(model.state_dict()) == names
    torch.testing.assert_close(model(x), expected)
    copy.deepcopy(model).load_state_dict(model.state_dict())


def test_an_unknown_norm_is_named() -> None:
    class Whitening(nn.BatchNorm2d):
        pass

    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Sequential(Whitening(4)))
    with pytest.raises(ValueError, match="^1.0: expected nn.BatchNorm2d, .* got Whitening"):
        synchronise(model)
