"""The kernels of the sigmoid and softmax focal losses, called as the wrappers call them, against
float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from focaldet import reference
from simt.cases import ATOL, DTYPES, RTOL

pytestmark = pytest.mark.simt

_ops = torch.ops.focaldet


def close(got: Tensor, want: Tensor, dtype: torch.dtype, slack: float = 1) -> None:
    torch.testing.assert_close(
        got.double(), want.double(), rtol=slack * RTOL[dtype], atol=slack * ATOL[dtype]
    )


def weights(rows: int, classes: int) -> list[dict[str, Any]]:
    return [
        {"alpha": 0.25, "gamma": 2.0},
        {"alpha": 0.4, "gamma": 1.5, "class_weight": torch.rand(classes)},
        {"alpha": torch.rand(classes), "gamma": 2.0},
    ]


def schema(case: dict[str, Any], form: str = "focal") -> tuple[Any, ...]:
    alpha = case["alpha"]
    table = alpha if isinstance(alpha, Tensor) else None
    number = 0.25 if table is not None else alpha
    return number, case["gamma"], table, case.get("class_weight"), 0.0, form


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("classes", [1, 3, 80])
def test_sum_and_gradient(dtype: torch.dtype, classes: int, simt: torch.device) -> None:
    x, labels = (3 * torch.randn(37, classes)).to(dtype), torch.randint(-2, classes, (37,))
    for case in weights(37, classes):
        for targets in (labels, torch.rand(37, classes).to(dtype)):
            for divisor in (None, torch.tensor(7), torch.tensor(3.0)):
                arguments = x, targets, *schema(case)
                total, gradient = _ops.sigmoid_focal_loss_sum_and_gradient(*arguments, divisor)
                exact = x.clone().double().requires_grad_()
                wide = targets if targets.dtype == torch.int64 else targets.double()
                want = reference.sigmoid_focal_loss(exact, wide, reduction="sum", **case)
                want = want / (1 if divisor is None else divisor)
                want.backward()
                close(total, want.detach(), torch.float32 if dtype != torch.float64 else dtype)
                slack = 1 if dtype != torch.float32 else 4
                torch.testing.assert_close(
                    gradient.double(), exact.grad, rtol=slack * RTOL[dtype], atol=3e-7
                )
                assert gradient.dtype == dtype
                plain = _ops.sigmoid_focal_loss_sum(*arguments)
                if divisor is None:
                    assert torch.equal(plain, total)
                    one = torch.ones((), dtype=total.dtype)
                    again = _ops.sigmoid_focal_loss_backward(one, *arguments)
                    assert torch.equal(again, gradient)


@pytest.mark.parametrize("empty", [(0, 3), (3, 0)])
def test_the_sum_of_nothing(empty: tuple[int, int], simt: torch.device) -> None:
    labels = torch.zeros(empty[0], dtype=torch.int64)
    case = 0.25, 2.0, None, None, 0.0, "focal", torch.tensor(4.0)
    total, gradient = _ops.sigmoid_focal_loss_sum_and_gradient(torch.empty(empty), labels, *case)
    assert total == 0 and gradient.shape == empty


def relative(form: str, x: Tensor, t: Tensor, alpha: Tensor | float, gamma: float) -> Tensor:
    """Quality and varifocal loss of dense targets, in float64."""
    p = torch.sigmoid(x)
    cross_entropy = -t * torch.log(p) - (1 - t) * torch.log(1 - p)
    if form == "quality":
        balance = alpha * t + (1 - alpha) * (1 - t)
        return balance * (p - t).abs() ** gamma * cross_entropy
    return torch.where(t > 0, t, alpha * p**gamma) * cross_entropy


@pytest.mark.parametrize("form", ["quality", "varifocal"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_forms(form: str, dtype: torch.dtype, simt: torch.device) -> None:
    x, labels = (2 * torch.randn(29, 5)).to(dtype), torch.randint(-1, 5, (29,))
    soft = torch.where(torch.rand(29, 5) < 0.5, 0.0, torch.rand(29, 5)).to(dtype)
    for targets in (labels, soft):
        for gamma in (2.0, 1.5):
            arguments = x, targets, *schema({"alpha": 0.75, "gamma": gamma}, form)
            exact = x.clone().double().requires_grad_()
            dense = reference.dense_targets(exact, targets)
            want = relative(form, exact, dense.double(), 0.75, gamma)
            want.sum().backward()
            for got, exactly in (
                (_ops.sigmoid_focal_loss(*arguments), want.detach()),
                (_ops.sigmoid_focal_loss_sum_and_gradient(*arguments, None)[1], exact.grad),
            ):
                tolerance = {"rtol": 4 * RTOL[dtype], "atol": 1e-6}
                torch.testing.assert_close(got.double(), exactly, **tolerance)
    by_class = x, labels, *schema({"alpha": torch.rand(5), "gamma": 2.0}, form)
    with pytest.raises(RuntimeError, match="alpha: by class only with form focal"):
        _ops.sigmoid_focal_loss(*by_class)


# Softmax focal loss


def softmax_focal(x: Tensor, labels: Tensor, alpha: Any, gamma: float) -> Tensor:
    valid = (labels >= 0) & (labels < x.shape[-1])
    t = torch.where(valid, labels, 0)
    log_p = torch.log_softmax(x, dim=-1).gather(-1, t[..., None])[..., 0]
    weight = alpha.double()[t] if isinstance(alpha, Tensor) else (1.0 if alpha < 0 else alpha)
    wrong = -torch.expm1(log_p)
    return torch.where(valid, weight * wrong.clamp(min=1e-300) ** gamma * -log_p, 0.0)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("classes", [1, 2, 31, 91])
def test_softmax_focal_loss(dtype: torch.dtype, classes: int, simt: torch.device) -> None:
    x = (3 * torch.randn(5, 7, classes)).to(dtype)
    labels = torch.randint(-2, classes + 2, (5, 7))
    for alpha, gamma in ((-1.0, 2.0), (0.25, 0.0), (torch.rand(classes), 1.3)):
        table = alpha if isinstance(alpha, Tensor) else None
        case = x, labels, 0.25 if table is not None else alpha, gamma, table
        exact = x.clone().double().requires_grad_()
        want = softmax_focal(exact, labels, alpha, gamma)
        got = _ops.softmax_focal_loss(*case)
        wide = torch.float64 if dtype == torch.float64 else torch.float32
        assert got.dtype == wide and got.shape == labels.shape
        tolerance = {"rtol": 8 * RTOL[dtype], "atol": max(ATOL[dtype], 1e-14)}
        torch.testing.assert_close(got.double(), want.detach(), **tolerance)
        each = torch.rand(5, 7).to(wide)
        for incoming in (torch.tensor(0.5), each):
            exact.grad = None
            (want * incoming.double()).sum().backward(retain_graph=True)
            got = _ops.softmax_focal_loss_backward(incoming, *case)
            assert got.dtype == dtype and got.shape == x.shape
            torch.testing.assert_close(got.double(), exact.grad, **tolerance)


def test_softmax_focal_loss_at_infinity(simt: torch.device) -> None:
    inf = torch.inf
    x = torch.tensor([[inf, 0.0, 1], [0.0, -inf, 1], [-inf, -inf, 1], [-inf, 0.0, inf], [90, 0, 0]])
    labels = torch.tensor([0, 1, 2, 1, 0])
    loss = _ops.softmax_focal_loss(x, labels, -1.0, 2.0, None)
    assert loss.tolist() == [0, inf, 0, inf, 0]
    gradient = _ops.softmax_focal_loss_backward(torch.tensor(1.0), x, labels, -1.0, 2.0, None)
    assert gradient.isfinite().all() and gradient[3].tolist() == [0, -1, 1]


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (4,)])
def test_softmax_focal_loss_of_few(shape: tuple[int, ...], simt: torch.device) -> None:
    x, labels = torch.randn(shape), torch.zeros(shape[:-1], dtype=torch.int64)
    loss = _ops.softmax_focal_loss(x, labels, 0.25, 2.0, None)
    assert loss.shape == labels.shape
    gradient = _ops.softmax_focal_loss_backward(torch.tensor(1.0), x, labels, 0.25, 2.0, None)
    assert gradient.shape == x.shape
