"""One step: the same in micro-batches, in half types and compiled; a bad one leaves no trace."""

from __future__ import annotations

import json
import math

import pytest
import torch
from tiny_runs import SIZE
from tiny_runs import tiny_model as untrained
from torch import Tensor

from focaldet.distributed import ALONE
from focaldet.models import RetinaNet
from focaldet.train import Recipe
from focaldet.train.optim import make_optimizer
from focaldet.train.update import Update


def tiny_model(dtype: torch.dtype = torch.float32, **changes: object) -> RetinaNet:
    return untrained(dtype, **{"min_size": 128} | changes).train()


def batch(images: int, size: int = SIZE) -> tuple[list[Tensor], list[dict]]:
    """Noise, with as many boxes on an image as it comes after others: the first has none."""
    generator = torch.Generator().manual_seed(0)
    targets = []
    for number in range(images):
        corner = torch.rand(number, 2, generator=generator) * 40
        boxes = torch.cat([corner, corner + 8 + torch.rand(number, 2, generator=generator) * 15], 1)
        labels = torch.randint(3, (number,), generator=generator)
        targets.append({"boxes": boxes, "labels": labels, "image_id": number})
    return [torch.rand(3, size, size, generator=generator) for _ in range(images)], targets


def update(model: RetinaNet, **recipe: object) -> Update:
    settings = Recipe(**{"optimizer": "sgd", "lr": 0.1} | recipe)
    optimizer = make_optimizer(
        model, settings.optimizer, settings.lr, settings.weight_decay, settings.batch_size
    )
    return Update(model, optimizer, settings, ALONE)


def cut(images: list[Tensor], targets: list[dict], *ends: int) -> list[tuple]:
    starts = (0, *ends)
    return [(images[a:b], targets[a:b]) for a, b in zip(starts, (*ends, len(images)), strict=True)]


@pytest.mark.parametrize("changes", [{}, {"normalizer": "image"}, {"loss": "ohem"}])
def test_micro_batches_make_the_step_of_the_whole_batch(changes: dict) -> None:
    images, targets = batch(5)
    whole, parts = (tiny_model(torch.float64, norm="frozen", **changes) for _ in range(2))
    one = update(whole)([(images, targets)], 1)
    other = update(parts)([*cut(images, targets, 1, 3), ([], [])], 1)
    for name in ("classification", "bbox_regression", "grad_norm"):
        assert getattr(one, name) == pytest.approx(getattr(other, name), rel=1e-12)
    assert one.n_foreground == other.n_foreground > 0 and one.images == other.images == 5
    before = tiny_model(torch.float64, norm="frozen", **changes).state_dict()
    for name, value in whole.named_parameters():
        assert (parts.get_parameter(name) - value).norm() <= 1e-12 * value.norm(), name
        assert not value.requires_grad or not torch.equal(value, before[name]), name


def test_micro_batches_are_padded_as_the_whole_batch_is() -> None:
    """Padding has anchors, too, whose losses count."""
    images, targets = batch(3)
    images = [images[0], images[1][:, :40], images[2][:, :, :60]]  # on 64 x 64, 64 x 96, 96 x 64
    sizes = {"min_size": SIZE, "max_size": 96, "norm": "frozen"}
    whole, parts = (tiny_model(torch.float64, **sizes) for _ in range(2))
    one = update(whole)([(images, targets)], 1)
    other = update(parts)(cut(images, targets, 1, 2), 1)
    assert one.classification == pytest.approx(other.classification, rel=1e-12)
    assert one.grad_norm == pytest.approx(other.grad_norm, rel=1e-12)


def test_the_gradient_is_that_of_the_models_own_losses() -> None:
    """With the normalizer inside of the losses, and nothing clipped."""
    images, targets = batch(4)
    model, plain = (tiny_model(torch.float64, norm="frozen") for _ in range(2))
    outcome = update(model, clip_norm=0.0, weight_decay=0.0)([(images, targets)], 1)
    losses = plain(images, targets)
    sum(losses.values()).backward()
    assert outcome.classification == pytest.approx(losses["classification"].item(), rel=1e-12)
    norm = math.sqrt(sum(p.grad.square().sum().item() for p in plain.parameters()))
    assert outcome.grad_norm == pytest.approx(norm, rel=1e-12)
    for ours, theirs in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs - 0.1 * theirs.grad, rtol=1e-12, atol=1e-12)


def test_the_gradient_is_clipped() -> None:
    images, targets = batch(4)
    model = tiny_model(norm="frozen")
    before = [p.detach().clone() for p in model.parameters()]
    outcome = update(model, clip_norm=0.01, weight_decay=0.0)([(images, targets)], 1)
    assert outcome.grad_norm > 0.1, "what is told is the norm before"
    moved = [(p - b).square().sum() for p, b in zip(model.parameters(), before, strict=True)]
    assert sum(moved).sqrt().item() == pytest.approx(0.1 * 0.01, rel=1e-3)


def test_images_without_boxes_alone_are_a_step() -> None:
    images, targets = batch(1)
    outcome = update(tiny_model())([(images, targets)], 1)
    assert outcome.problem is None and outcome.n_foreground == 0
    assert outcome.bbox_regression == 0 < outcome.classification


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_half_precision_makes_nearly_the_same_step(precision: str) -> None:
    images, targets = batch(4, size=128)  # of 64 pixels oneDNN leaves a gradient unwritten
    model, exact = (tiny_model(norm="group", head_norm="group", max_size=128) for _ in range(2))
    outcome = update(model, precision=precision)([(images, targets)], 1)
    expected = update(exact)([(images, targets)], 1)
    assert outcome.problem is None
    # Eight bits of a bfloat16, through some twenty layers.
    assert outcome.classification == pytest.approx(expected.classification, rel=0.02)
    assert outcome.grad_norm == pytest.approx(expected.grad_norm, rel=0.1)
    assert all(p.dtype == torch.float32 for p in model.parameters())


def test_a_scale_too_large_for_float16_is_lowered_and_is_no_fault() -> None:
    images, targets = batch(2)
    model = tiny_model(norm="batch", head_norm="group")
    step = update(model, precision="float16")
    step.scaler.scale(torch.zeros(()))  # makes its tensor
    step.scaler.update(2.0**40)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    outcome = step([(images, targets)], 1)
    assert outcome.problem and outcome.overflow
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert step.scaler.get_scale() == 2.0**39


@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_a_step_without_a_finite_loss_leaves_everything_as_it_was(precision: str) -> None:
    images, targets = batch(4)
    model = tiny_model(norm="batch", head_norm="group")
    step = update(model, precision=precision, optimizer="adamw")
    step([(images, targets)], 1)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    moments, scale = json.dumps(str(step.optimizer.state_dict())), step.scaler.get_scale()
    images[2] = images[2] * math.inf
    outcome = step(cut(images, targets, 2), 2)
    assert outcome.problem == "classification is nan" and outcome.own_problem
    assert not outcome.overflow
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert json.dumps(str(step.optimizer.state_dict())) == moments
    assert step.scaler.get_scale() == scale
    assert step([(images[:2], targets[:2])], 3).problem is None, "it goes on"


def test_a_compiled_step_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """The graph, that is; tests/models/test_compile.py has the code that is made of it."""
    compile_module = torch.nn.Module.compile
    calls: list[int] = []

    def without_code(module: torch.nn.Module) -> None:
        calls.append(1)
        compile_module(module, backend="aot_eager", fullgraph=True)

    monkeypatch.setattr(torch.nn.Module, "compile", without_code)
    images, targets = batch(4)
    model, eager = (tiny_model(norm="frozen") for _ in range(2))
    ours, theirs = (update(m, compile=c) for m, c in ((model, True), (eager, False)))
    for number in (1, 2):
        a, b = ours([(images, targets)], number), theirs([(images, targets)], number)
        assert a.classification == pytest.approx(b.classification, rel=1e-5)
        assert a.grad_norm == pytest.approx(b.grad_norm, rel=1e-4)
    assert calls == [1]
