"""The model under what PyTorch builds on autograd: other parameters, recomputation, second
derivatives, hooks. Each must give the gradients of a plain backward, bit for bit."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.checkpoint import checkpoint

from focaldet.models import RetinaNet

TRUTH = (
    torch.tensor([[4.0, 6, 40, 38], [50, 20, 62, 34], [10, 10, 60, 50]]),
    torch.tensor([0, 2, 1]),
    torch.tensor([0, 2, 3]),
)
IMAGES = torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))


class Step(nn.Module):
    """Images and boxes to the sum of the losses."""

    def __init__(self, **options: object) -> None:
        super().__init__()
        torch.manual_seed(0)
        small = {"norm": "group", "width": 8, "fpn_channels": 16, "head_depth": 1}
        self.model = RetinaNet(3, "resnet18", **small, **options)

    def forward(self, images: Tensor, *truth: Tensor) -> Tensor:
        losses = self.model.loss(images, *truth)
        return losses.classification + losses.bbox_regression


@pytest.fixture(params=["focal", "ohem"])
def step(request: pytest.FixtureRequest) -> Step:
    return Step(loss=request.param)


def gradients(step: Step) -> list[Tensor]:
    return list(torch.autograd.grad(step(IMAGES, *TRUTH), list(step.parameters())))


def same(got: list[Tensor], want: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(got, want, strict=True))


def test_functional_call(step: Step) -> None:
    """With other parameters than the module's, which then get no gradient."""
    want = gradients(step)
    values = {name: p.detach().clone() for name, p in step.named_parameters()}
    with torch.no_grad():
        for p in step.parameters():
            p.fill_(torch.nan)
    # Not leaves: as a step of an inner loop leaves them.
    others = {name: value.requires_grad_() * 1 for name, value in values.items()}
    loss = functional_call(step, others, (IMAGES, *TRUTH))
    assert same(list(torch.autograd.grad(loss, list(values.values()))), want)
    assert all(p.grad is None for p in step.parameters())


def whole(step: Step) -> Callable[..., Tensor]:
    return lambda *given: checkpoint(step, *given, use_reentrant=False)


def head(step: Step) -> Callable[..., Tensor]:
    """What is recomputed is what the loss has overwritten."""
    forward = step.model.head.forward
    step.model.head.forward = lambda levels: checkpoint(forward, levels, use_reentrant=False)
    return step


@pytest.mark.parametrize("part", [whole, head])
def test_activation_checkpoints(step: Step, part: Callable) -> None:
    want = gradients(step)
    loss = part(step)(IMAGES, *TRUTH)
    assert same(list(torch.autograd.grad(loss, list(step.parameters()))), want)


def test_hooks_see_the_gradients(step: Step) -> None:
    """As data parallel training takes them, while the backward goes on."""
    want = gradients(step)
    seen: dict[Tensor, Tensor] = {}
    for p in step.parameters():
        p.register_post_accumulate_grad_hook(lambda p: seen.update({p: p.grad.clone()}))
    step(IMAGES, *TRUTH).backward()
    assert same([seen[p] for p in step.parameters()], want)


def test_gradients_add_up_over_steps(step: Step) -> None:
    want = gradients(step)
    for _ in range(2):
        step(IMAGES, *TRUTH).backward()
    assert same([p.grad for p in step.parameters()], [2 * g for g in want])


def test_second_derivatives() -> None:
    """H g, as the gradient of |g|^2 / 2, and as a central difference of gradients along g."""
    step = Step().double()
    parameters, images = list(step.parameters()), IMAGES.double()
    with pytest.raises(RuntimeError, match="RetinaNet: keep_maps = True"):
        torch.autograd.grad(step(images, *TRUTH), parameters, create_graph=True)
    step.model.keep_maps = True
    g = torch.autograd.grad(step(images, *TRUTH), parameters, create_graph=True)
    got = torch.autograd.grad(sum(x.square().sum() for x in g) / 2, parameters)

    values = [p.detach().clone() for p in parameters]
    sides = []
    for shift in (1e-6, -1e-6):
        with torch.no_grad():
            for p, value, direction in zip(parameters, values, g, strict=True):
                p.copy_(value + shift * direction)
        sides.append(torch.autograd.grad(step(images, *TRUTH), parameters))
    want = [(a - b) / 2e-6 for a, b in zip(*sides, strict=True)]
    difference = sum((a - b).square().sum() for a, b in zip(got, want, strict=True)).sqrt()
    assert difference < 1e-4 * sum(w.square().sum() for w in want).sqrt()


def test_keeping_the_maps_changes_no_gradient(step: Step) -> None:
    want = gradients(step)
    step.model.keep_maps = True
    assert same(gradients(step), want)


def test_transforms_say_that_they_are_not_supported(step: Step) -> None:
    """By torch: its derivatives of library operators have no form that torch.func takes."""
    parameters = {name: p.detach() for name, p in step.named_parameters()}
    with pytest.raises(RuntimeError, match="functorch transforms"):
        torch.func.grad(lambda p: functional_call(step, p, (IMAGES, *TRUTH)))(parameters)
