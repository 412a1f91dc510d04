"""examples/fcos_head.py: a head that trains, compiles and detects."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor


@pytest.fixture
def fcos(recipe: Callable[[str], ModuleType]) -> ModuleType:
    return recipe("fcos_head")


def scene(fcos: ModuleType) -> tuple[Tensor, Tensor, Tensor]:
    """Two images of 64 pixels, padded boxes and labels; the second image has no boxes."""
    boxes = torch.tensor([[4.0, 4.0, 60.0, 60.0], [20.0, 20.0, 40.0, 40.0]])
    none = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
    targets = [{"boxes": boxes, "labels": torch.tensor([2, 1])}, none]
    return torch.rand(2, 3, 64, 64), *fcos.padded(targets, rows=5)


def test_the_head_has_sixty_lines(fcos: ModuleType) -> None:
    """Without what is said about them."""
    lines = 0
    for part in (fcos.FCOS, fcos.locations, fcos.assign, fcos.loss, fcos.detect):
        tree = ast.parse(inspect.getsource(part))
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node):
                node.body = node.body[1:]
        lines += len(ast.unparse(tree).splitlines())
    assert lines <= 60


def test_assignment(fcos: ModuleType) -> None:
    images, boxes, labels = scene(fcos)
    center = fcos.locations(images[..., ::8, ::8])
    assert center[9].tolist() == [12.0, 12.0] and center.shape == (64, 2)
    label, box = fcos.assign(center, boxes, labels)
    grid = label[0].view(8, 8)
    assert grid[3, 3] == grid[4, 4] == 1  # at (28, 28) and (36, 36), in both: the smaller one's
    assert (
        grid[2, 2] == fcos.IGNORED
    )  # at (20, 20), on the smaller one's edge, off the other's middle
    assert box[0].view(8, 8, 4)[3, 3].tolist() == [20.0, 20.0, 40.0, 40.0]
    assert grid[1, 1] == fcos.IGNORED  # in the larger one, off its middle
    assert grid[0, 7] == fcos.BACKGROUND and (label[1] == fcos.BACKGROUND).all()


def test_perfect_boxes_have_no_box_loss(fcos: ModuleType) -> None:
    images, boxes, labels = scene(fcos)
    label, wanted = fcos.assign(fcos.locations(images[..., ::8, ::8]), boxes, labels)
    logits = torch.full((2, 64, 3), -30.0)
    logits[label >= 0] = torch.where(torch.arange(3) == label[label >= 0][:, None], 30.0, -30.0)
    predicted = torch.where((label >= 0)[..., None], wanted, torch.tensor([0.0, 0.0, 9.0, 9.0]))
    assert fcos.loss(lambda _: (logits, predicted), images, boxes, labels) < 1e-6
    assert fcos.loss(lambda _: (logits, predicted + 4), images, boxes, labels) > 0.1


def test_it_learns(fcos: ModuleType, tmp_path: Path) -> None:
    _, losses = fcos.train(fcos.scenes(tmp_path / "scenes", images=8, seed=0), steps=10, batch=4)
    assert sum(losses[-2:]) < 0.8 * sum(losses[:2])


def test_detections(fcos: ModuleType) -> None:
    """By image what `batched_nms` of the scores above the threshold keeps."""
    from focaldet.ops import batched_nms

    torch.manual_seed(1)
    model, images = fcos.FCOS(3, width=8), torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        model.logits.bias.zero_()
        logits, boxes = model(images)
    found = fcos.detect(model, images, score_threshold=0.5, iou_threshold=0.4)
    for i, count in enumerate(found[3].tolist()):
        score, label = logits[i].sigmoid().max(dim=1)
        rows = (score > 0.5).nonzero().flatten()
        kept = rows[batched_nms(boxes[i, rows], score[rows], label[rows], 0.4)]
        assert 0 < count == len(kept)
        assert torch.equal(found[0][i, :count], boxes[i, kept])
        assert torch.equal(found[1][i, :count], score[kept])
        assert torch.equal(found[2][i, :count], label[kept])


def test_one_graph(fcos: ModuleType) -> None:
    """Training and detection compile without a graph break, which a wait for the values would
    be, and give the same."""
    model, (images, boxes, labels) = fcos.FCOS(3, width=8), scene(fcos)
    one_graph = {"fullgraph": True, "backend": "aot_eager"}
    results = []
    for loss, detect in (
        (fcos.loss, fcos.detect),
        (torch.compile(fcos.loss, **one_graph), torch.compile(fcos.detect, **one_graph)),
    ):
        total = loss(model, images, boxes, labels)
        gradients = torch.autograd.grad(total, list(model.parameters()))
        results.append([total.detach(), *gradients, *detect(model, images, 0.0)])
    torch.testing.assert_close(*results)
