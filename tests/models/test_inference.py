"""for_inference: the same detections, from a copy that leaves the model alone."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from focaldet.models import RetinaNet, for_inference
from focaldet.models.resnet import FrozenBatchNorm
from focaldet.models.winograd import WinogradConv2d


def detector(backbone: str = "resnet18", **options) -> RetinaNet:
    """Random weights whose scores pass the threshold, and norms that do something."""
    options = {"min_size": 96, "max_size": 160, "detections_per_img": 50} | options
    model = RetinaNet(3, backbone, **options).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d | FrozenBatchNorm):
            for values in (module.weight.data, module.running_var):
                values.uniform_(0.5, 1.5)
            for values in (module.bias.data, module.running_mean):
                values.uniform_(-0.5, 0.5)
    nn.init.normal_(model.head.classification_head.cls_logits.weight, std=0.1)
    nn.init.normal_(model.head.regression_head.bbox_reg.weight, std=0.02)
    return model


def images() -> list[torch.Tensor]:
    random = torch.Generator().manual_seed(0)
    return [torch.rand(3, *size, generator=random) for size in ((96, 160), (120, 90))]


MODELS = {
    "resnet18": {},
    "resnet50": {"backbone": "resnet50", "width": 32, "fpn_channels": 128},
    "frozen": {"norm": "frozen"},
    "group": {"norm": "group", "head_norm": "group", "p6_from": "c5", "fpn_channels": 128},
    "too narrow for Winograd": {"width": 16, "fpn_channels": 64, "head_depth": 1},
}


@pytest.mark.parametrize("options", MODELS.values(), ids=MODELS)
@torch.no_grad()
def test_the_same_detections(options: dict) -> None:
    model = detector(**options)
    before = copy.deepcopy(model.state_dict())
    ready = for_inference(model)
    batch = model.transform.images(images()).batch
    for mine, theirs in zip(ready.features(batch), model.features(batch), strict=True):
        for level, want in zip(mine, theirs, strict=True):
            torch.testing.assert_close(level, want, rtol=0, atol=2e-5 * want.abs().max().item())
    for found, want in zip(ready(images()), model(images()), strict=True):
        assert len(want["scores"]) == 50
        torch.testing.assert_close(found["scores"], want["scores"], rtol=0, atol=1e-4)
    state = model.state_dict()  # the model is as it was
    assert state.keys() == before.keys()
    assert all(torch.equal(state[name], before[name]) for name in before)
    assert all(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize("norm", ["batch", "frozen"])
def test_no_norm_is_left(norm: str) -> None:
    ready = for_inference(detector(norm=norm))
    assert not any(isinstance(m, nn.BatchNorm2d | FrozenBatchNorm) for m in ready.modules())
    frozen = [m for m in ready.modules() if isinstance(m, WinogradConv2d)]
    # Two towers of four, logits and deltas too narrow, P3 to P5, and 3 + 3 + 3 in the body.
    assert len(frozen) == 8 + 3 + 9 and all(m.transformed is not None for m in frozen)


def test_training_is_refused() -> None:
    model = detector(width=8, fpn_channels=16, head_depth=1)
    with pytest.raises(ValueError, match="expected a model in eval mode"):
        for_inference(model.train())
    ready = for_inference(model.eval())
    ready.train()
    with pytest.raises(ValueError, match="made by for_inference, which cannot be trained"):
        ready(images(), [])


@torch.no_grad()
def test_other_dtypes_take_direct_convolutions() -> None:
    ready = for_inference(detector(fpn_channels=128, head_depth=1).bfloat16())
    assert not any(isinstance(m, WinogradConv2d) for m in ready.modules())
    assert ready(images())[0]["scores"].dtype == torch.float32
