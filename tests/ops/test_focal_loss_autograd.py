"""sigmoid_focal_loss as autograd, torch.compile and autocast see it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from focaldet.ops import sigmoid_focal_loss

FORMS = ("labels", "hard", "soft")
GAMMAS = (0, 0.5, 1, 2, 3.7)


def case(
    form: str, device: torch.device, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor]:
    """Logits [3, 4], with gradient, and targets with ignored and background rows."""
    x = torch.randn(3, 4, device=device, dtype=dtype).mul(2).requires_grad_()
    if form == "labels":
        return x, torch.tensor([-1, 2, -2], device=device)
    t = torch.rand(3, 4, device=device, dtype=dtype)
    return x, t.round() if form == "hard" else t


def options(device: torch.device) -> dict[str, dict[str, object]]:
    rising = torch.linspace(0.1, 0.9, 4, device=device, dtype=torch.float64)
    return {
        "plain": {},
        "no alpha": dict(alpha=-1),
        "class alpha": dict(alpha=rising),
        "weighted and smoothed": dict(class_weight=rising, label_smoothing=0.1),
    }


@pytest.mark.parametrize("option", ["plain", "no alpha", "class alpha", "weighted and smoothed"])
@pytest.mark.parametrize("gamma", GAMMAS)
@pytest.mark.parametrize("form", FORMS)
def test_first_and_second_derivatives(
    form: str, gamma: float, option: str, device: torch.device
) -> None:
    x, t = case(form, device)
    for reduction in ("none", "mean") if option == "plain" else ("none",):

        def loss(x: Tensor, reduction: str = reduction) -> Tensor:
            return sigmoid_focal_loss(
                x, t, gamma=gamma, reduction=reduction, **options(device)[option]
            )

        assert torch.autograd.gradcheck(loss, (x,))
        assert torch.autograd.gradgradcheck(loss, (x,), fast_mode=True)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
def test_a_second_backward_gives_the_same_gradient(
    reduction: str, dtype: torch.dtype, device: torch.device
) -> None:
    """apex rescales the saved gradient in place and is wrong the second time."""
    x, t = case("labels", device, dtype)
    upstream = torch.rand((3, 4) if reduction == "none" else (), device=device) + 0.5
    loss = sigmoid_focal_loss(x, t, reduction=reduction)
    upstream = upstream.to(loss.dtype)
    first = torch.autograd.grad(loss, x, upstream, retain_graph=True)[0]
    copy = first.clone()
    second = torch.autograd.grad(loss, x, upstream)[0]
    assert first.dtype == dtype
    assert torch.equal(second, copy) and torch.equal(first, copy)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_every_form_of_the_incoming_gradient(dtype: torch.dtype, device: torch.device) -> None:
    x = torch.randn(6, 5, device=device, dtype=dtype, requires_grad=True)
    t = torch.rand(6, 5, device=device).to(dtype)
    loss = sigmoid_focal_loss(x, t)
    unit = torch.autograd.grad(loss, x, torch.ones_like(loss), retain_graph=True)[0]
    half = torch.full_like(loss, 0.5)  # a power of two: every product is exact
    for upstream in (
        half,
        half[:1, :1].expand(6, 5),
        half.t().contiguous().t(),
        half.repeat(1, 2)[:, ::2],
    ):
        got = torch.autograd.grad(loss, x, upstream, retain_graph=True)[0]
        assert torch.equal(got, unit * 0.5)
    rows = torch.arange(6, device=device, dtype=dtype)[:, None]  # by rows, expanded over classes
    got = torch.autograd.grad(loss, x, rows.exp2().expand(6, 5), retain_graph=True)[0]
    assert torch.equal(got, unit * rows.exp2())
    summed = torch.autograd.grad(loss.sum(), x)[0]
    fused = torch.autograd.grad(sigmoid_focal_loss(x, t, reduction="sum"), x)[0]
    assert torch.equal(summed, unit) and torch.equal(fused, unit)


def test_logits_that_need_no_gradient_get_none(device: torch.device) -> None:
    x, t = case("soft", device)
    assert not sigmoid_focal_loss(x.detach(), t).requires_grad
    with torch.no_grad():
        assert not sigmoid_focal_loss(x, t).requires_grad


def compiled_equals_eager(backend: str, device: torch.device) -> None:
    def step(x: Tensor, t: Tensor, reduction: str) -> tuple[Tensor, Tensor]:
        loss = sigmoid_focal_loss(x * 2, t, 0.25, 1.5, reduction)
        return loss, torch.autograd.grad(loss.sum(), x)[0]

    def forward(x: Tensor, t: Tensor, reduction: str) -> Tensor:
        return sigmoid_focal_loss(x * 2, t, 0.25, 1.5, reduction)

    torch._dynamo.reset()
    compiled: Callable[..., Tensor] = torch.compile(forward, fullgraph=True, backend=backend)
    for form in ("labels", "soft"):
        for reduction in ("none", "mean"):
            x, t = case(form, device, torch.float32)
            want = step(x, t, reduction)
            loss = compiled(x, t, reduction)
            got = loss, torch.autograd.grad(loss.sum(), x)[0]
            # The mean's division is torch's: on a GPU Inductor's own is an ulp off.
            ulps = 1 if (backend, device.type) == ("inductor", "cuda") else 0
            close = dict(rtol=ulps * torch.finfo(torch.float32).eps, atol=0)
            torch.testing.assert_close(got, want, **close)


def test_compile(device: torch.device) -> None:
    compiled_equals_eager("aot_eager", device)


@pytest.mark.slow
def test_compile_with_inductor(device: torch.device) -> None:
    compiled_equals_eager("inductor", device)


def test_compile_with_dynamic_shapes(device: torch.device) -> None:
    torch._dynamo.reset()
    compiled = torch.compile(sigmoid_focal_loss, fullgraph=True, dynamic=True, backend="aot_eager")
    for rows, classes in ((3, 4), (7, 5), (2, 91)):
        x = torch.randn(rows, classes, device=device)
        labels = torch.randint(-2, classes, (rows,), device=device)
        assert torch.equal(compiled(x, labels), sigmoid_focal_loss(x, labels))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_autocast_leaves_the_dtype_alone(dtype: torch.dtype, device: torch.device) -> None:
    x, t = case("labels", device, dtype)
    with torch.autocast(device.type, torch.bfloat16):
        inside = sigmoid_focal_loss(x, t)
        total = sigmoid_focal_loss(x, t, reduction="sum")
    assert inside.dtype == dtype and total.dtype == torch.float32
    assert torch.equal(inside, sigmoid_focal_loss(x, t))
