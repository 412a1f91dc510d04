"""Every recipe that ships builds, and takes a step: its own model, loss and optimizer, on one small
image, for one of its own size would take minutes here."""

from __future__ import annotations

import pytest
import torch

from focaldet.distributed import ALONE
from focaldet.recipes import load, names
from focaldet.train.optim import make_optimizer
from focaldet.train.update import Update

IMAGE = (96, 128)  # height, width
CLASSES = 2
SLOW = ("paper-", "detectron2-", "torchvision-")  # ResNets of 50 layers and more


def cases() -> list[object]:
    return [
        pytest.param(name, marks=[pytest.mark.slow] * name.startswith(SLOW)) for name in names()
    ]


@pytest.mark.parametrize("name", cases())
def test_a_step(name: str) -> None:
    setup = load(name)
    recipe = setup.make_recipe()
    model = setup.make_model(CLASSES).train()
    optimizer = make_optimizer(
        model, recipe.optimizer, recipe.lr, recipe.weight_decay, recipe.batch_size
    )
    update = Update(model, optimizer, recipe, ALONE, resize=False)
    size = setup.anchors.get("sizes", (32,))[0]  # an object as large as the smallest anchors
    target = {
        "boxes": torch.tensor([[40.0, 40, 40 + size, 40 + size]]),
        "labels": torch.tensor([1]),
        "image_id": 1,
        "original_size": IMAGE,
        "size": IMAGE,
    }
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    outcome = update([([torch.rand(3, *IMAGE)], [target])], step=1)
    assert outcome.problem is None and outcome.n_foreground > 0
    assert outcome.classification > 0 and outcome.bbox_regression > 0
    changed = {n for n, p in model.named_parameters() if not torch.equal(p, before[n])}
    assert "backbone.body.conv1.weight" in changed
    assert any(name.startswith("head.") for name in changed)
