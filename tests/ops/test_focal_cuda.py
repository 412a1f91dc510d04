"""The focal loss on a GPU against float64, over the bit patterns of float32: there the kernels ask
the processor's own units for exponentials and reciprocals, which no CPU can stand in for."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import focaldet
from focaldet import ops
from focaldet.reference import sigmoid_focal_loss

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(
        focaldet._C_cuda is None or not torch.cuda.is_available(), reason="needs a GPU"
    ),
]
# Of the loss p^2 c, in ulp, which are 2^-23 at most: 3 for the exponential, so 4.5 for p and 9 for
# its square; 5 for the cross entropy c, and a half for each product. The gradient p^2 (2 q c + p)
# is no worse.
LARGEST_ERROR = 16 * 2.0**-23
SMALLEST = 2.0**-126  # Below, errors are absolute.


def loss_and_gradient(loss: Tensor, x: Tensor) -> Tensor:
    (gradient,) = torch.autograd.grad(loss, x, torch.ones_like(loss))
    return torch.stack([loss.detach(), gradient])


@pytest.mark.parametrize("label", [-1, 0], ids=["background", "foreground"])
def test_accuracy(label: int) -> None:
    stride, chunk = 61, 1 << 24  # a prime, so that every binade is met at other significands
    for start in range(-(1 << 31), 1 << 31, chunk * stride):
        end = min(start + chunk * stride, 1 << 31)
        bits = torch.arange(start, end, stride, device="cuda").to(torch.int32)
        x = bits.view(torch.float32)
        x = x[x.abs() < 1e30][:, None].requires_grad_()  # beyond, the loss is the logit or 0
        if len(x) == 0:
            continue
        labels = torch.full((len(x),), label, device="cuda")
        loss = ops.sigmoid_focal_loss(x, labels, reduction="none")
        wide = x.detach().double().requires_grad_()
        right = loss_and_gradient(sigmoid_focal_loss(wide, labels, reduction="none"), wide)
        off = (loss_and_gradient(loss, x).double() - right).abs().flatten(1)
        right = right.abs().flatten(1)
        worst = torch.where(right >= SMALLEST, off / right, 0).max(dim=1)
        for name, value, at in zip(("loss", "gradient"), *worst, strict=True):
            assert value <= LARGEST_ERROR, f"{name} at {x[at].item():.9g}: {value * 2**23:.1f} ulp"
        assert torch.where(right < SMALLEST, off, 0).max() <= LARGEST_ERROR * SMALLEST


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_nan_and_infinities(dtype: torch.dtype) -> None:
    x = torch.tensor([[torch.nan, torch.inf, -torch.inf, 0.0]] * 4, dtype=dtype)
    labels = torch.tensor([-1, -2, 1, 2])

    def on(device: str) -> Tensor:
        y = x.to(device).requires_grad_()
        loss = ops.sigmoid_focal_loss(y, labels.to(device), reduction="none")
        return loss_and_gradient(loss, y).cpu()

    torch.testing.assert_close(on("cuda"), on("cpu"), equal_nan=True)
