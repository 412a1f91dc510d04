"""Winograd's convolutions: values and gradients of every tiling, and where they are taken."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from focaldet.models import winograd
from focaldet.models.winograd import (
    LEAST_CHANNELS,
    WinogradConv2d,
    transform_weight,
    use_winograd,
    winograd_conv2d,
)

SIZES = {
    "one pixel": (1, 1, 1),
    "whole tiles": (2, 16, 24),
    "cut tiles": (3, 13, 17),
    "several images a chunk": (9, 21, 30),
    "several chunks an image": (1, 70, 75),
    "rows longer than a chunk": (2, 6, 4 * winograd.CHUNK + 3),
    "no images": (0, 8, 8),
}


def inputs(size: tuple[int, int, int], channels: int = 5, outputs: int = 7) -> list[torch.Tensor]:
    batch, height, width = size
    x = torch.randn(batch, channels, height, width)
    return [x, torch.randn(outputs, channels, 3, 3), torch.randn(outputs)]


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_equals_the_direct_convolution(size: tuple[int, int, int], layout) -> None:
    x, weight, bias = inputs(size)
    x = x.to(memory_format=layout)
    want = F.conv2d(x.double(), weight.double(), bias.double(), padding=1)
    for transformed in (None, transform_weight(weight)):
        got = winograd_conv2d(x, weight, bias, transformed)
        assert got.is_contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(got.double(), want, rtol=0, atol=1e-4)


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
def test_gradients(size: tuple[int, int, int]) -> None:
    tensors = [t.requires_grad_() for t in inputs(size)]
    exact = [t.detach().double().requires_grad_() for t in tensors]
    weights = torch.randn(size[0], 7, *size[1:])
    (winograd_conv2d(*tensors) * weights).sum().backward()
    (F.conv2d(*exact, padding=1) * weights).sum().backward()
    for name, mine, true in zip(("x", "weight", "bias"), tensors, exact, strict=True):
        largest = true.grad.abs().max().item() if true.numel() else 0.0
        torch.testing.assert_close(
            mine.grad.double(), true.grad, rtol=0, atol=1e-5 * largest, msg=lambda m, n=name: n + m
        )


def test_trains_before_a_relu_in_place() -> None:
    conv = nn.Conv2d(LEAST_CHANNELS, LEAST_CHANNELS, 3, padding=1)
    plain = nn.Sequential(conv, nn.ReLU(inplace=True))
    mine = use_winograd(copy.deepcopy(plain))
    x = torch.randn(1, LEAST_CHANNELS, 40, 41)
    for model in (mine, plain):
        model(x).square().sum().backward()
    assert "Winograd" in type(mine(x).grad_fn.next_functions[0][0]).__name__.title()
    largest = conv.weight.grad.abs().max()
    assert (mine[0].weight.grad - conv.weight.grad).abs().max() < 1e-4 * largest


def test_rounding() -> None:
    """The usual interpolation points would make 1.9e-6 of it, oneDNN's convolution of channels_last
    maps makes 6e-7."""
    x, weight, _ = inputs((1, 32, 32), 256, 256)
    x = x.relu()
    want = F.conv2d(x.double(), weight.double(), padding=1)
    assert (winograd_conv2d(x, weight) - want).norm() < 1.3e-6 * want.norm()


def test_what_is_not_finite_stays_in_its_tile() -> None:
    x, weight, bias = inputs((1, 12, 12))
    clean = winograd_conv2d(x, weight, bias)
    x[0, 0, 5, 5] = torch.inf  # in the middle tile, and in no other's border
    got = winograd_conv2d(x, weight, bias)
    assert got[0, :, 4:8, 4:8].isnan().all()
    got[0, :, 4:8, 4:8] = clean[0, :, 4:8, 4:8]
    assert torch.equal(got, clean)


def test_other_arguments_are_refused() -> None:
    x, weight, bias = inputs((1, 8, 8))
    with pytest.raises(ValueError, match=r"expected float32 maps .* got torch.float64"):
        winograd_conv2d(x.double(), weight, bias)
    with pytest.raises(ValueError, match=r"got torch.float32 and torch.float32 \[7, 5, 1, 1\]"):
        winograd_conv2d(x, weight[..., :1, :1], bias)


C = LEAST_CHANNELS
UNFIT = {
    "few channels": nn.Conv2d(C, C - 1, 3, padding=1),
    "stride": nn.Conv2d(C, C, 3, stride=2, padding=1),
    "size": nn.Conv2d(C, C, 1, padding=1),
    "padding": nn.Conv2d(C, C, 3),
    "dilation": nn.Conv2d(C, C, 3, padding=1, dilation=2),
    "groups": nn.Conv2d(C, C, 3, padding=1, groups=2),
    "mode": nn.Conv2d(C, C, 3, padding=1, padding_mode="reflect"),
}


def test_replaces_what_fits_and_keeps_its_parameters() -> None:
    conv = nn.Conv2d(C, C, 3, padding=1)
    model = nn.Sequential(nn.Sequential(conv), *UNFIT.values())
    names = list(model.state_dict())
    use_winograd(use_winograd(model))  # the second time there is nothing to do
    assert type(model[0][0]) is WinogradConv2d
    assert model[0][0].weight is conv.weight and model[0][0].bias is conv.bias
    for name, kept in zip(UNFIT, model[1:], strict=True):
        assert type(kept) is nn.Conv2d, name
    assert list(model.state_dict()) == names


def test_the_direct_way_where_winograds_is_not_possible_or_not_faster(monkeypatch) -> None:
    taken = []

    def spy(*args):
        taken.append(args)
        return winograd_conv2d(*args)

    monkeypatch.setattr(winograd, "winograd_conv2d", spy)
    conv = WinogradConv2d(nn.Conv2d(C, C, 3, padding=1)).requires_grad_(False)
    x = torch.randn(1, C, 40, 40)
    conv(x)
    assert len(taken) == 1
    with torch.autocast("cpu", torch.bfloat16):
        assert conv(x).dtype == torch.bfloat16
    assert conv.double()(x.double()).dtype == torch.float64
    conv.float()(x[..., :24, :24])  # 36 tiles
    assert len(taken) == 1
    conv.freeze()
    conv(x[..., :24, :24])
    assert len(taken) == 2
    conv(x[..., :20, :20])
    assert len(taken) == 2


def test_a_frozen_convolution_follows_the_weights_that_it_loads() -> None:
    conv = WinogradConv2d(nn.Conv2d(128, 128, 3, padding=1))
    conv.freeze()
    other = nn.Conv2d(128, 128, 3, padding=1)
    conv.load_state_dict(other.state_dict())
    x = torch.randn(1, 128, 48, 48)
    with torch.no_grad():
        assert conv.pays(x)
        torch.testing.assert_close(conv(x), other(x), rtol=1e-4, atol=1e-5)


def test_an_image_without_a_batch_is_left_to_torch() -> None:
    conv = WinogradConv2d(nn.Conv2d(128, 128, 3, padding=1))
    x = torch.randn(128, 48, 48)
    assert not conv.pays(x) and conv(x).shape == x.shape
