"""Curves of the losses, every point of which an operator computed."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from matplotlib.figure import Figure
from torch import Tensor

from focaldet import Anchors, ops

from .style import COLOURS, INK, labelled, panels

GAMMAS = (0.0, 0.5, 1.0, 2.0, 5.0)


def _with_gradient(loss: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    """A loss of each logit, and its derivative."""
    x = x.clone().requires_grad_()
    value = loss(x)
    value.sum().backward()
    return value.detach(), x.grad


def sigmoid_focal_loss() -> Figure:
    """Loss and gradient of one positive for the paper's gammas."""
    loss_axes, slope_axes = panels("loss of a positive", "its gradient")
    x = torch.linspace(-5, 5, 201)[:, None]  # one class
    labels = torch.zeros(len(x), dtype=torch.int64)
    for gamma, colour in zip(GAMMAS, COLOURS, strict=False):

        def loss(x: Tensor, gamma: float = gamma) -> Tensor:
            return ops.sigmoid_focal_loss(x, labels, alpha=-1, gamma=gamma)

        value, slope = _with_gradient(loss, x)
        name = f"gamma = {gamma:g}" + (" (cross entropy)" if gamma == 0 else "")
        loss_axes.plot(x.sigmoid()[:, 0], value[:, 0], color=colour, label=name)
        slope_axes.plot(x[:, 0], slope[:, 0], color=colour, label=name)
    loss_axes.set_ylim(0, 5)
    labelled(loss_axes, "probability of the class, p = sigma(x)", "loss")
    labelled(slope_axes, "logit x", "d loss / d x")
    return loss_axes.figure


def quality_focal_loss() -> Figure:
    """The least loss lies at the quality, and the gradient is small near it."""
    return _by_quality("loss, beta = 2", ops.quality_focal_loss, "y = {:g}".format, highest=2)


def varifocal_loss() -> Figure:
    """Negatives are scaled down, positives weighed by their quality."""

    def name(quality: float) -> str:
        return f"{'positive' if quality else 'negative'}, y = {quality:g}"

    title = "loss, alpha = 0.75, gamma = 2"
    return _by_quality(title, ops.varifocal_loss, name, highest=2.5)


def _by_quality(
    title: str,
    loss: Callable[[Tensor, Tensor], Tensor],
    name: Callable[[float], str],
    highest: float,
) -> Figure:
    """Loss and gradient over the predicted quality, a line for each quality of the target."""
    axes = panels(title, "its gradient")
    x = torch.linspace(-5, 5, 201)[:, None]
    for quality, colour in zip((0.0, 0.3, 0.6, 0.9), COLOURS, strict=False):
        lines = _with_gradient(partial(_towards, loss, quality), x)
        for panel, line in zip(axes, lines, strict=True):
            panel.plot(x.sigmoid()[:, 0], line[:, 0], color=colour, label=name(quality))
    axes[0].set_ylim(0, highest)
    for panel, what in zip(axes, ("loss", "d loss / d x"), strict=True):
        labelled(panel, "predicted quality, sigma(x)", what)
    return axes[0].figure


def _towards(loss: Callable[[Tensor, Tensor], Tensor], quality: float, x: Tensor) -> Tensor:
    return loss(x, torch.full_like(x, quality))


def softmax_focal_loss() -> Figure:
    """Three classes: as the label's logit rises, what the loss pulls at each of the three."""
    loss_axes, slope_axes = panels("loss, alpha off", "gradients, gamma = 2")
    x = torch.zeros(201, 3)  # logits x, 0 and 1, of which the first is the label's
    x[:, 0] = torch.linspace(-4, 6, len(x))
    x[:, 2] = 1
    labels = torch.zeros(len(x), dtype=torch.int64)
    for gamma, colour in zip(GAMMAS, COLOURS, strict=False):
        value = ops.softmax_focal_loss(x, labels, alpha=-1, gamma=gamma)
        loss_axes.plot(x[:, 0], value, color=colour, label=f"gamma = {gamma:g}")
    logits = x.clone().requires_grad_()
    ops.softmax_focal_loss(logits, labels, alpha=-1, reduction="sum").backward()
    names = ("of the label", "of the class with logit 0", "of the class with logit 1")
    for k, (name, colour) in enumerate(zip(names, (INK, *COLOURS), strict=False)):
        slope_axes.plot(x[:, 0], logits.grad[:, k], color=colour, label=name)
    labelled(loss_axes, "logit of the label", "loss")
    labelled(slope_axes, "logit of the label", "d loss / d logit")
    return loss_axes.figure


def retinanet_loss() -> Figure:
    """The box losses of one anchor whose box is predicted too far to the right."""
    far_axes, near_axes = panels("box losses", "near the target")
    side = 64.0
    anchor = Anchors((((0.0, 0.0, side, side),),), ((1, 1),), ((64, 64),), 0.0)
    truth = torch.tensor([[0.0, 0.0, side, side]])
    label, splits = torch.tensor([0]), torch.tensor([0, 1])

    def loss(offset: float, kind: str, beta: float) -> float:
        deltas = torch.tensor([offset, 0.0, 0.0, 0.0]).view(1, 4, 1, 1)
        logits = torch.zeros(1, 1, 1, 1)
        return ops.retinanet_loss(
            [logits], [deltas], anchor, truth, label, splits, box_loss=kind, beta=beta
        )[1].item()

    kinds = ("smooth_l1", "smooth_l1", "l1", "giou", "diou", "ciou")
    betas = (0.1, 1.0, 0.1, 0.1, 0.1, 0.1)
    for kind, beta, colour in zip(kinds, betas, COLOURS, strict=True):
        name = f"{kind}, beta = {beta:g}" if kind == "smooth_l1" else kind
        dashed = "--" if kind == "ciou" else "-"  # on diou, as the shapes are equal
        for axes, reach in ((far_axes, 2.0), (near_axes, 0.25)):
            x = torch.linspace(-reach, reach, 81).tolist()
            axes.plot(x, [loss(d, kind, beta) for d in x], dashed, color=colour, label=name)
    far_axes.figure.legend(*far_axes.get_legend_handles_labels(), loc="outside right center")
    far_axes.set(xlabel="dx: distance in widths of the anchor", ylabel="loss")
    near_axes.set_xlabel("dx")
    return far_axes.figure
