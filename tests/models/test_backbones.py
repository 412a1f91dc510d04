"""Bodies of timm: three maps of any image, weights in and out, one line for what does not fit."""

import builtins

import pytest
import torch
from torch import nn

from focaldet.checkpoint import Description, load_model, save_checkpoint
from focaldet.errors import UserError
from focaldet.models import RetinaNet, for_inference
from focaldet.models.backbones import published_statistics

timm = pytest.importorskip("timm")
SMALL = dict(fpn_channels=16, head_depth=1, min_size=64, max_size=96)
# Norms that hold activations, LayerNorm instead of BatchNorm, norms before their convolutions.
NAMES = ["resnet18", "efficientnet_b0", "convnext_atto", "densenet121"]


def detector(name, **options):
    return RetinaNet(3, f"timm/{name}", **SMALL | options)


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_features_are_timms_and_survive_for_inference(name):
    model = detector(name).eval()
    x = torch.randn(2, 3, 64, 96)
    body = timm.create_model(name, features_only=True).eval()
    body.load_state_dict(model.backbone.body.model.state_dict(), strict=False)
    for got, want in zip(model.backbone.body(x), body(x)[-3:], strict=True):
        torch.testing.assert_close(got, want, msg=name)
    for got, want in zip(for_inference(model).backbone(x), model.backbone(x), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)


def test_it_trains():
    model = detector("resnet18")
    target = {"boxes": torch.tensor([[4.0, 6, 40, 50]]), "labels": torch.tensor([1])}
    losses = model([torch.rand(3, 64, 96)], [target])
    sum(losses.values()).backward()
    assert all(p.grad is not None for p in model.backbone.parameters())


def test_a_checkpoint_rebuilds_it(tmp_path):
    model = detector("convnext_atto").eval()
    path = tmp_path / "model.safetensors"
    save_checkpoint(path, model.state_dict(), Description(model.config, list("abc"), [1, 2, 3]))
    again, _ = load_model(path)
    x = torch.randn(1, 3, 64, 64)
    for got, want in zip(again.backbone(x), model.backbone(x), strict=True):
        torch.testing.assert_close(got, want)


@pytest.mark.parametrize("name", ["resnet18", "convnext_atto"])
def test_weights_of_the_whole_model_load(name):
    """timm's features have other parameter names than its classifiers."""
    classifier = timm.create_model(name)
    with torch.no_grad():
        for p in classifier.parameters():
            p.uniform_(0.1, 0.2)
    body = detector(name).backbone.body
    body.load(classifier.state_dict())
    first = next(m for m in classifier.modules() if isinstance(m, nn.Conv2d))
    assert torch.equal(next(body.parameters()), first.weight)
    assert all(0.1 <= p.min() and p.max() <= 0.2 for p in body.parameters())


def test_statistics_are_timms():
    half = (0.5, 0.5, 0.5)
    assert published_statistics("timm/inception_v3") == (half, half)
    assert published_statistics("timm/resnet18.a1_in1k")[0] == (0.485, 0.456, 0.406)


def test_a_tag_that_timm_does_not_have():
    with pytest.raises(UserError, match=r"backbone timm/resnet18.foo: Invalid pretrained tag"):
        published_statistics("timm/resnet18.foo")


@pytest.mark.parametrize(
    "name, options, message",
    [
        ("resnet18x", {}, "no model of this name; the nearest are resnet18,"),
        ("levit_128", {}, r"expected feature maps of strides \(8, 16, 32\), it has \(16, 32, 64\)"),
        ("swin_tiny_patch4_window7_224", {}, r"Input height \(64\) doesn't match model \(224\)"),
        ("inception_v3", {}, "as a convolutional model gives them, got"),
        ("resnet18", {"norm": "frozen"}, "norm: applies to ResNets of this package"),
        ("resnet18", {"width": 32}, "width: applies to ResNets of this package"),
        ("resnet18", {"stride_in": "1x1"}, "stride_in: applies to ResNets of this package"),
    ],
)
def test_what_does_not_fit_is_one_line(name, options, message):
    with pytest.raises(ValueError, match=message) as caught:
        detector(name, **options)
    assert "\n" not in str(caught.value)


def test_a_wrong_name_says_which_there_are():
    with pytest.raises(ValueError, match="resnet101, timm/<name of a model of timm>, got 'vgg11'"):
        RetinaNet(3, "vgg11")


def test_without_timm_it_says_what_to_install(monkeypatch):
    real = builtins.__import__

    def without_timm(name, *args, **kwargs):
        if name == "timm":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_timm)
    with pytest.raises(ValueError, match=r'pip install "focaldet\[timm\]"'):
        detector("resnet18")
