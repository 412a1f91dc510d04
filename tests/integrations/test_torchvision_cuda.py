"""What tests/integrations/test_torchvision_models.py shows of the CPU, on a GPU."""

import copy

import pytest
import torch

import focaldet

pytest.importorskip("torchvision")
import detectors  # noqa: E402
from detectors import (  # noqa: E402
    K,
    accelerated,
    as_exact_as,
    gradients,
    like_trained,
    same,
    settled,
    without_close_calls,
)
from torch import nn  # noqa: E402
from torchvision.models import detection  # noqa: E402
from torchvision.models.detection.anchor_utils import AnchorGenerator  # noqa: E402
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone  # noqa: E402
from torchvision.ops.feature_pyramid_network import LastLevelP6P7  # noqa: E402

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(
        focaldet._C_cuda is None or not torch.cuda.is_available(), reason="needs a GPU"
    ),
]

DEVICE = "cuda"
# Few candidates: torchvision's batched NMS rounds their coordinates, and of many pairs one might
# lie on the threshold.
SHARED = {
    "FCOS": (detectors.tiny_fcos, {"topk_candidates": 50}),
    "SSD": (detectors.tiny_ssd, {"topk_candidates": 50}),
    "FasterRCNN": (
        detectors.tiny_faster_rcnn,
        {"rpn_pre_nms_top_n_train": 100, "rpn_pre_nms_top_n_test": 50},
    ),
}
HALVES = [torch.bfloat16, torch.float16]


@pytest.fixture(autouse=True)
def reproducible_convolutions(monkeypatch):
    """In float32, and the same for both models."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    monkeypatch.setattr(torch.backends.cuda.matmul, "allow_tf32", False)


def pictures(seed, count=4):
    return [image.to(DEVICE) for image in detectors.pictures(seed, count)]


def some_targets(images, first_class=0):
    targets = detectors.some_targets(images, first_class)
    return [{key: value.to(DEVICE) for key, value in target.items()} for target in targets]


def resnet18_retinanet():
    """Five levels, as torchvision's own models have."""
    torch.manual_seed(0)
    backbone = resnet_fpn_backbone(
        backbone_name="resnet18",
        weights=None,
        norm_layer=nn.BatchNorm2d,
        returned_layers=[2, 3, 4],
        extra_blocks=LastLevelP6P7(256, 256),
        trainable_layers=5,
    )
    sizes = tuple(
        (size, int(size * 2 ** (1 / 3)), int(size * 2 ** (2 / 3)))
        for size in (16, 32, 64, 128, 256)
    )
    grid = AnchorGenerator(sizes, ((0.5, 1.0, 2.0),) * len(sizes))
    return detection.RetinaNet(backbone, K, anchor_generator=grid, **detectors.SIZES)


RETINANETS = {
    "v1": lambda: detectors.tiny_retinanet("v1"),
    "v2": lambda: detectors.tiny_retinanet("v2"),
    "resnet18": resnet18_retinanet,
}


# RetinaNet ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", RETINANETS)
@torch.no_grad()
def test_retinanet_finds_the_same(name):
    images = pictures(0)
    theirs = like_trained(RETINANETS[name]().to(DEVICE), images)
    ours = accelerated(theirs)
    clear = without_close_calls(theirs, images)
    assert sum(clear) >= 2
    with detectors.Called() as called:
        found = ours(images)
    assert called.ours() == {"retinanet_postprocess"}
    expected = theirs(images)
    assert sum(len(one["boxes"]) for one in expected) > 50
    got, want = (
        [one for one, is_clear in zip(each, clear, strict=True) if is_clear]
        for each in (found, expected)
    )
    same(got, want, rtol=1e-6, atol=1e-4)


@pytest.mark.parametrize("name", RETINANETS)
def test_retinanet_has_the_same_losses_and_gradients(name):
    """Gradients as on the CPU: torchvision's own error against float64 is the measure."""
    images = pictures(3, count=2)
    targets = some_targets(images)
    theirs = like_trained(RETINANETS[name]().to(DEVICE), images)
    ours, exact = accelerated(theirs), copy.deepcopy(theirs).double()
    _, true_gradients = gradients(
        exact,
        [image.double() for image in images],
        [t | {"boxes": t["boxes"].double()} for t in targets],
    )
    want, their_gradients = gradients(theirs, images, targets)
    with detectors.Called() as called:
        got, our_gradients = gradients(ours, images, targets)
    # On a GPU the backward recomputes; on the CPU the gradients are saved.
    assert called.ours() == {"retinanet_loss", "retinanet_loss_and_gradient"}
    assert got.keys() == want.keys()
    for key, loss in want.items():
        assert loss > 0.01
        assert abs(got[key] - loss) < 1e-5 * loss, key
    as_exact_as(their_gradients, our_gradients, true_gradients)


@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("version", ["v1", "v2"])
def test_retinanet_under_autocast_is_near_full_precision(version, dtype):
    images = pictures(3, count=2)
    targets = some_targets(images)
    ours = accelerated(like_trained(detectors.tiny_retinanet(version).to(DEVICE), images))
    with torch.no_grad():
        full = ours(images)
        with torch.autocast(DEVICE, dtype):
            half = ours(images)
    near_detections(half, full)
    want = ours.train()(images, targets)
    with torch.autocast(DEVICE, dtype):
        got = ours(images, targets)
    near_losses(ours, got, want, 0.02)


# The others --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SHARED)
@torch.no_grad()
def test_others_find_the_same(name):
    """To the bit: only operators were replaced that choose."""
    make, options = SHARED[name]
    images = pictures(0)
    theirs = settled(make(**options).to(DEVICE), images)
    with detectors.Called() as called:
        got = accelerated(theirs)(images)
    assert called.ours() == {"batched_nms"}
    want = theirs(images)
    assert min(len(one["boxes"]) for one in want) > 5
    same(got, want)


@pytest.mark.parametrize("name", SHARED)
def test_others_have_the_same_losses_and_gradients(name):
    make, options = SHARED[name]
    images = pictures(3, count=2)
    targets = some_targets(images, first_class=1)  # 0 is background
    theirs = settled(make(**options).to(DEVICE), images)
    found = []
    for model in (theirs, accelerated(theirs)):
        torch.manual_seed(1)  # which proposals are sampled
        with detectors.Called() as called:
            found.append(gradients(model, images, targets))
    assert called.ours()
    (want, their_gradients), (got, our_gradients) = found
    assert got.keys() == want.keys()
    largest = max(g.norm() for g in their_gradients.values())
    for key, loss in want.items():
        assert loss > 1e-3
        assert abs(got[key] - loss) <= 1e-5 * loss, key
    for key, gradient in their_gradients.items():
        # By norms: atomic additions round differently in every run.
        bound = 1e-4 * gradient.norm() + 1e-6 * largest
        assert (our_gradients[key] - gradient).norm() <= bound, key


@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("name", SHARED)
def test_others_under_autocast(name, dtype):
    """Losses are near full precision, and finite where other proposals may be sampled."""
    make, options = SHARED[name]
    images = pictures(3, count=2)
    targets = some_targets(images, first_class=1)
    ours = accelerated(settled(make(**options).to(DEVICE), images))
    with torch.no_grad():
        full = ours(images)
        with torch.autocast(DEVICE, dtype):
            half = ours(images)
    near_detections(half, full)
    torch.manual_seed(1)
    want = ours.train()(images, targets)
    torch.manual_seed(1)
    with torch.autocast(DEVICE, dtype):
        got = ours(images, targets)
    near_losses(ours, got, want, None if name == "FasterRCNN" else 0.1)


# Near --------------------------------------------------------------------------------------------


def near_losses(model, got, want, tolerance):
    """And gradients that are finite."""
    for key, loss in want.items():
        assert got[key].isfinite(), key
        assert tolerance is None or abs(got[key] - loss) < tolerance * loss, key
    model.zero_grad()
    sum(got.values()).backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


def near_detections(got, want):
    """As many, with as high scores: which boxes are kept hangs on less than a half type has."""
    for mine, full in zip(got, want, strict=True):
        assert mine["boxes"].isfinite().all() and len(full["scores"]) > 0
        assert abs(len(mine["scores"]) - len(full["scores"])) <= 0.2 * len(full["scores"]) + 2
        n = min(5, len(full["scores"]))
        assert (mine["scores"][:n].float() - full["scores"][:n]).abs().max() < 0.05
