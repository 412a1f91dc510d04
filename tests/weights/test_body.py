"""The body of a detector from a classifier's weights."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch

from focaldet.errors import UserError
from focaldet.models import RetinaNet
from focaldet.models.resnet import VARIANTS, ResNet
from focaldet.weights import load_body


def detector(backbone: str = "resnet18", **options) -> RetinaNet:
    return RetinaNet(2, backbone, **{"width": 8, "fpn_channels": 8, "head_depth": 1} | options)


def classifier(variant: str, width: int = 8) -> dict[str, torch.Tensor]:
    """The names of torchvision's ResNets; tests/models/test_resnet.py compares them."""
    weights = {
        name: torch.rand_like(t.float())
        for name, t in ResNet(variant, width=width).state_dict().items()
    }
    return weights | {"fc.weight": torch.rand(10, 32 * width), "fc.bias": torch.rand(10)}


@pytest.mark.parametrize("norm", ["batch", "frozen"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_resnet(variant: str, norm: str, tmp_path: Path) -> None:
    weights = classifier(variant)
    torch.save({"model": weights, "epoch": 90}, tmp_path / "resnet.pth")
    model = detector(variant, norm=norm)
    load_body(model, tmp_path / "resnet.pth")
    for name, value in model.backbone.body.state_dict().items():
        assert torch.equal(value.float(), weights[name].to(value.dtype).float()), name


def test_torchvisions_own() -> None:
    models = pytest.importorskip("torchvision").models
    theirs = models.resnet18(weights=None)
    model = detector(width=64)
    load_body(model, theirs.state_dict())
    assert torch.equal(model.backbone.body.layer4[1].conv2.weight, theirs.layer4[1].conv2.weight)


def test_files_without_batch_counters() -> None:
    """Those of torchvision before 2019 have none."""
    weights = {n: t for n, t in classifier("resnet18").items() if "num_batches" not in n}
    model = detector()
    load_body(model, weights)
    assert torch.equal(model.backbone.body.conv1.weight, weights["conv1.weight"])


@pytest.mark.parametrize(
    "weights, options, message",
    [
        (classifier("resnet34"), {}, "nearest ResNet is resnet34, of width 8; .* is resnet18"),
        (classifier("resnet50"), {}, "nearest ResNet is resnet50"),
        (classifier("resnet18", 16), {}, "of width 16; the model's is resnet18 of width 8"),
        (classifier("resnet18"), {"norm": "group"}, "with the norm group: .* bn1.running_mean"),
        (
            {"features.0.weight": torch.ones(1)},
            {},
            "conv1.weight among them, got features.0.weight",
        ),
    ],
)
def test_other_models_are_refused_and_nothing_changes(weights, options, message) -> None:
    model = detector(**options)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(UserError, match=message):
        load_body(model, weights)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_timm() -> None:
    timm = pytest.importorskip("timm")
    theirs = timm.create_model("convnext_atto")
    model = detector("timm/convnext_atto", width=64)
    load_body(model, theirs.state_dict())
    assert torch.equal(model.backbone.body.model.stem_0.weight, theirs.stem[0].weight)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(UserError, match="backbone timm/convnext_atto: timm cannot"):
        load_body(model, timm.create_model("resnet18").state_dict())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
