"""The twins that later kernels are tested against, themselves against other people's formulas and
autograd, in float64."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from focaldet import AnchorGrid, reference

WIDE = torch.float64
FORMS = ("focal", "quality", "varifocal")
GAMMAS = (0, 0.5, 1, 2, 3.7)
ONE = torch.ones((), dtype=WIDE)


def logits(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=WIDE).mul(3).requires_grad_()


def ious(*shape: int) -> Tensor:
    """Targets as assigners make them: mostly 0, else the IoU, sometimes 1."""
    t = torch.rand(*shape, dtype=WIDE) * (torch.rand(*shape) < 0.4)
    t[0, 0], t[0, 1] = 1, 0
    return t


@pytest.mark.parametrize("beta", [1.0, 2.0, 2.5])
def test_quality_focal_loss_as_mmdet_writes_it(beta: float) -> None:
    x, t = logits(50, 7).detach(), ious(50, 7)
    scale = (t - x.sigmoid()).abs().pow(beta)
    want = F.binary_cross_entropy_with_logits(x, t, reduction="none") * scale
    torch.testing.assert_close(reference.quality_focal_loss(x, t, beta), want)
    torch.testing.assert_close(reference.quality_focal_loss(x, t, beta, "mean"), want.mean())


@pytest.mark.parametrize("alpha,gamma", [(0.75, 2.0), (0.25, 1.5)])
def test_varifocal_loss_as_mmdet_writes_it(alpha: float, gamma: float) -> None:
    x, t = logits(50, 7).detach(), ious(50, 7)
    negative = alpha * (x.sigmoid() - t).abs().pow(gamma) * (t <= 0)
    want = F.binary_cross_entropy_with_logits(x, t, reduction="none") * (t * (t > 0) + negative)
    torch.testing.assert_close(reference.varifocal_loss(x, t, alpha, gamma), want)
    torch.testing.assert_close(reference.varifocal_loss(x, t, alpha, gamma, "sum"), want.sum())


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("gamma", GAMMAS)
@pytest.mark.parametrize("form", FORMS)
def test_sigmoid_derivatives(form: str, gamma: float, smoothing: float) -> None:
    x, weight = logits(5, 4), torch.rand(4, dtype=WIDE)
    for targets in (ious(5, 4), torch.tensor([0, -1, -2, 3, 1])):
        for alpha in (0.25, -1, weight):
            rest = (alpha, gamma, weight, smoothing, form)
            loss = reference.sigmoid_focal_loss(
                x,
                targets,
                alpha,
                gamma,
                class_weight=weight,
                label_smoothing=smoothing,
                form=form,
            )
            (first,) = torch.autograd.grad(loss.sum(), x, create_graph=True)
            (second,) = torch.autograd.grad(first.sum(), x)
            # Two ways to one number, between which terms cancel by at most e^|x|, here e^12.
            close = dict(rtol=1e-10, atol=1e-12)
            got = reference.sigmoid_focal_loss_backward(ONE, x, targets, *rest)
            torch.testing.assert_close(got, first, **close)
            got = reference.sigmoid_focal_loss_second_backward(ONE, x, targets, *rest)
            torch.testing.assert_close(got, second, **close)


@pytest.mark.parametrize("gamma", GAMMAS)
def test_quality_where_the_score_is_the_target(gamma: float) -> None:
    x, t = torch.zeros(1, dtype=WIDE), torch.full((1,), 0.5, dtype=WIDE)
    rest = (x, t, -1, gamma, None, 0.0, "quality")
    assert reference.sigmoid_focal_loss_backward(ONE, *rest) == 0
    # gamma 0 is cross entropy: p q. gamma 2: 2 (p q)^2 c. Otherwise 0, or a kink.
    want = {0: 0.25, 2: 2 / 16 * math.log(2)}.get(gamma, 0)
    got = reference.sigmoid_focal_loss_second_backward(ONE, *rest).item()
    assert got == pytest.approx(want, rel=1e-15)


ALPHAS: dict[str, Callable[[int], float | Tensor]] = {
    "number": lambda k: 0.25,
    "off": lambda k: -1,
    "by label": lambda k: torch.linspace(-0.2, 1, k, dtype=WIDE),
}


@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize("gamma", GAMMAS)
@pytest.mark.parametrize("classes", [2, 5])
def test_softmax_focal_loss(classes: int, gamma: float, alpha: str) -> None:
    x, labels = logits(6, classes), torch.tensor([0, 1, -1, -2, 1, classes])
    a = torch.as_tensor(ALPHAS[alpha](classes), dtype=WIDE).expand(classes)
    rest = (labels, ALPHAS[alpha](classes), gamma)
    counted = torch.tensor([0, 1, 4])
    label = labels[counted]
    cross_entropy = F.cross_entropy(x[counted], label, reduction="none")
    factor = torch.where(a < 0, 1, a)[label]
    want = factor * (1 - torch.exp(-cross_entropy)) ** gamma * cross_entropy
    loss = reference.softmax_focal_loss(x, *rest)
    torch.testing.assert_close(loss[counted], want)
    assert not loss[[2, 3, 5]].any()
    torch.testing.assert_close(reference.softmax_focal_loss(x, *rest, "mean"), want.mean())

    grad = torch.rand(6, dtype=WIDE, requires_grad=True)
    (first,) = torch.autograd.grad(loss, x, grad, create_graph=True)
    torch.testing.assert_close(reference.softmax_focal_loss_backward(grad, x, *rest), first)
    d_output = torch.randn_like(x)
    want = torch.autograd.grad(first, (grad, x), d_output)
    got = reference.softmax_focal_loss_second_backward(d_output, grad.detach(), x, *rest)
    for ours, theirs in zip(got, want, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_one_class_is_certain() -> None:
    x, labels = torch.tensor([[3.0], [-math.inf], [math.nan]]), torch.tensor([0, 0, -1])
    assert not reference.softmax_focal_loss(x, labels).any()
    assert not reference.softmax_focal_loss_backward(torch.ones(3), x, labels).any()


@pytest.mark.parametrize("box_loss", ["giou", "l1"])
def test_a_label_that_is_no_class_counts_for_the_boxes_alone(box_loss: str) -> None:
    anchors = AnchorGrid.torchvision(sizes=(16,)).at([(4, 6)], (32, 48))
    maps = [torch.randn(1, 9 * 3, 4, 6, dtype=WIDE)], [torch.randn(1, 9 * 4, 4, 6, dtype=WIDE)]
    boxes = torch.tensor([[2.0, 2, 18, 20], [24, 8, 44, 28]])
    splits = torch.tensor([0, 2])
    # The classes of the second box's anchors leave the sum, and nothing else changes.
    with_both = reference.retinanet_loss(
        *maps, anchors, boxes, torch.tensor([1, 2]), splits, box_loss=box_loss
    )
    matches = reference.match_anchors(anchors, boxes, splits)[0]
    logits = reference.flatten_maps(maps[0], 9)[0][matches == 1]
    lost = reference.sigmoid_focal_loss(logits, torch.full((len(logits),), 2), reduction="sum")
    assert len(logits) > 0
    for outside in (-1, -2, 3):
        labels = torch.tensor([1, outside])
        got = reference.retinanet_loss(*maps, anchors, boxes, labels, splits, box_loss=box_loss)
        torch.testing.assert_close(got[0], with_both[0] - lost / with_both[2])
        assert torch.equal(got[1], with_both[1]) and torch.equal(got[2], with_both[2])
