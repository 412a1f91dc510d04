"""The body of a detector from a classifier's weights."""

from __future__ import annotations

import copy
from collections.abc import Callable
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


@pytest.mark.parametrize(
    "name, change, message",
    [
        ("resnet34", lambda w: w, r"layer1.2.conv1.weight among them, .* and unknown in the model"),
        ("resnet50", lambda w: w, r"tensors differ, layer1.0.conv1.weight among them"),
        ("resnet18", lambda w: {n: t for n, t in w.items() if "layer4" not in n},
         r"25 tensors differ, layer4.0.conv1.weight among them, which is missing in the weights"),
        ("resnet18", lambda w: w | {"more": torch.ones(1)}, r"1 tensors differ, more among them"),
        ("resnet18", lambda w: {}, "conv1.weight among them, which is missing"),
    ],
    ids=["deeper", "other blocks", "a part", "more", "nothing"],
)  # fmt: skip
def test_timm_would_take_a_part_of_other_weights(name: str, change: Callable, message: str) -> None:
    timm = pytest.importorskip("timm")
    model = detector("timm/resnet18", width=64)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(
        UserError, match=f"timm/resnet18: the weights of another model: .*{message}"
    ):
        load_body(model, change(timm.create_model(name).state_dict()))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_timm_with_another_classifier() -> None:
    """Whose classes are not those of the published weights."""
    timm = pytest.importorskip("timm")
    theirs = timm.create_model("resnet18", num_classes=7)
    model = detector("timm/resnet18", width=64)
    load_body(model, theirs.state_dict())
    assert torch.equal(
        model.backbone.body.model.layer4[1].conv2.weight, theirs.layer4[1].conv2.weight
    )
