"""The bodies, the pyramid and the head: names, numbers and initialisation."""

import math

import pytest
import torch
from torch import nn

from focaldet.models.fpn import FeaturePyramid
from focaldet.models.head import RetinaNetHead
from focaldet.models.resnet import NORMS, VARIANTS, FrozenBatchNorm, ResNet, group_norm


def shapes(module):
    return {name: tuple(t.shape) for name, t in module.state_dict().items()}


@pytest.mark.parametrize("variant", VARIANTS)
def test_names_and_shapes_are_torchvisions(variant):
    models = pytest.importorskip("torchvision").models
    with torch.device("meta"):
        theirs = shapes(getattr(models, variant)(weights=None))
        assert shapes(ResNet(variant)) == {
            name: shape for name, shape in theirs.items() if not name.startswith("fc.")
        }


@pytest.mark.parametrize("variant", ["resnet18", "resnet50"])
def test_features_are_torchvisions(variant):
    models = pytest.importorskip("torchvision").models
    torch.manual_seed(0)
    theirs = getattr(models, variant)(weights=None)
    ours = ResNet(variant)
    ours.load_state_dict({k: v for k, v in theirs.state_dict().items() if k[:3] != "fc."})
    x = torch.randn(2, 3, 64, 96)
    got = ours(x)
    y = theirs.maxpool(theirs.relu(theirs.bn1(theirs.conv1(x))))
    want = [
        y := theirs.layer2(theirs.layer1(y)),
        y := theirs.layer3(y),
        theirs.layer4(y),
    ]
    assert [tuple(c.shape[2:]) for c in got] == [(8, 12), (4, 6), (2, 3)]
    assert tuple(c.shape[1] for c in got) == ours.out_channels
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b)


def test_frozen_batch_norm_is_batch_norm_in_evaluation_and_stays_so():
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(6)
    for tensor in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
        nn.init.uniform_(tensor, 0.5, 2.0)
    frozen = FrozenBatchNorm(6)
    frozen.load_state_dict(norm.state_dict())  # strict, with num_batches_tracked among its keys
    x = torch.randn(2, 6, 3, 4)
    torch.testing.assert_close(frozen.train()(x), norm.eval()(x))
    torch.testing.assert_close(frozen(x), norm(x))
    assert not list(frozen.parameters())


def test_the_stride_stands_where_it_is_said_to():
    """Both have the same weights; the 1x1 with the stride skips the pixels between."""
    torch.manual_seed(0)
    ours, original = ResNet("resnet50", width=8), ResNet("resnet50", width=8, stride_in="1x1")
    original.load_state_dict(ours.state_dict())
    for stage in (original.layer2, original.layer3, original.layer4):
        assert (stage[0].conv1.stride, stage[0].conv2.stride) == ((2, 2), (1, 1))
        assert (stage[1].conv1.stride, stage[1].conv2.stride) == ((1, 1), (1, 1))
    x = torch.randn(1, 3, 64, 96)
    got, other = original.eval()(x), ours.eval()(x)
    assert [c.shape for c in got] == [c.shape for c in other]
    assert not any(torch.allclose(a, b) for a, b in zip(got, other, strict=True))
    with pytest.raises(ValueError, match="stride_in: resnet18 has no 1x1"):
        ResNet("resnet18", stride_in="1x1")


def test_frozen_body_takes_a_batch_norm_body():
    ResNet("resnet18", "frozen", width=8).load_state_dict(ResNet("resnet18", width=8).state_dict())


@pytest.mark.parametrize(
    "channels, groups",
    [(64, 32), (256, 32), (96, 32), (48, 16), (32, 16), (8, 4), (9, 1), (1, 1)],
)
def test_group_norm_takes_the_groups_that_fit(channels, groups):
    assert group_norm(channels).num_groups == groups


@pytest.mark.parametrize("norm", NORMS)
def test_every_norm_runs_at_every_width(norm):
    body = ResNet("resnet18", norm, width=6)
    assert body.out_channels == (12, 24, 48)
    c5 = body(torch.randn(2, 3, 64, 64))[-1]
    assert c5.shape == (2, 48, 2, 2) and c5.isfinite().all()


def test_he_initialisation_keeps_the_variance():
    torch.manual_seed(0)
    conv = ResNet("resnet18").layer4[0].conv2
    assert conv.weight.std().item() == pytest.approx(math.sqrt(2 / (512 * 9)), rel=0.01)


@pytest.mark.parametrize("p6_from", ["p5", "c5"])
def test_pyramid_at_odd_sizes(p6_from):
    fpn = FeaturePyramid([4, 8, 16], 12, p6_from)
    c5 = torch.randn(1, 16, 4, 3)
    levels = fpn([torch.randn(1, 4, 13, 11), torch.randn(1, 8, 7, 6), c5])
    sizes = [(13, 11), (7, 6), (4, 3), (2, 2), (1, 1)]
    assert [tuple(level.shape) for level in levels] == [(1, 12, *size) for size in sizes]
    source = c5 if p6_from == "c5" else levels[2]
    torch.testing.assert_close(levels[3], fpn.extra_blocks["p6"](source))


@pytest.mark.parametrize("p7_relu", [True, False])
def test_a_relu_before_p7(p7_relu):
    fpn = FeaturePyramid([4, 8, 16], 12, p7_relu=p7_relu)
    levels = fpn([torch.randn(1, c, 32 // s, 32 // s) for c, s in ((4, 1), (8, 2), (16, 4))])
    p6 = levels[3]
    assert (p6 < 0).any()
    expected = fpn.extra_blocks["p7"](p6.relu() if p7_relu else p6)
    torch.testing.assert_close(levels[4], expected)


@pytest.mark.parametrize("norm", [None, "group"])
def test_head_starts_at_the_prior(norm):
    torch.manual_seed(0)
    head = RetinaNetHead(64, num_anchors=9, num_classes=5, depth=2, norm=norm)
    levels = [torch.randn(2, 64, 8, 6), torch.randn(2, 64, 4, 3)]
    cls_logits, box_deltas = head(levels)
    assert [tuple(m.shape) for m in cls_logits] == [(2, 45, 8, 6), (2, 45, 4, 3)]
    assert [tuple(m.shape) for m in box_deltas] == [(2, 36, 8, 6), (2, 36, 4, 3)]
    for level in cls_logits:
        assert level.sigmoid().median().item() == pytest.approx(0.01, rel=0.15)
    for name, parameter in head.named_parameters():
        if name.endswith("cls_logits.bias"):
            assert parameter[0].item() == pytest.approx(-math.log(99))
        elif name.endswith(".0.weight"):
            assert parameter.std().item() == pytest.approx(0.01, rel=0.05)
        elif name.endswith("bias"):
            assert not parameter.any()


def test_depth_zero_is_one_convolution():
    head = RetinaNetHead(8, num_anchors=3, num_classes=2, depth=0)
    assert len(list(head.parameters())) == 4
    assert head([torch.randn(1, 8, 4, 4)])[0][0].shape == (1, 6, 4, 4)
