"""An accelerated detector of torchvision and the same one as it was are the same detector."""

import copy

import pytest
import torch

pytest.importorskip("torchvision")
import detectors  # noqa: E402
import torchvision  # noqa: E402
from detectors import (  # noqa: E402
    K,
    accelerated,
    as_exact_as,
    gradients,
    like_trained,
    pictures,
    same,
    settled,
    some_targets,
    without_close_calls,
)
from torch import nn  # noqa: E402

from focaldet.integrations.torchvision import accelerate, restore  # noqa: E402

SHARED = {
    "FCOS": detectors.tiny_fcos,
    "SSD": detectors.tiny_ssd,
    "FasterRCNN": detectors.tiny_faster_rcnn,
}


# RetinaNet ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("version", ["v1", "v2"])
@torch.no_grad()
def test_retinanet_finds_the_same(version, layout):
    images = pictures(0)
    theirs = like_trained(detectors.tiny_retinanet(version), images).to(memory_format=layout)
    ours = accelerated(theirs)
    clear = without_close_calls(theirs, images)
    assert sum(clear) >= 3
    got, want = (
        [one for one, is_clear in zip(model(images), clear, strict=True) if is_clear]
        for model in (ours, theirs)
    )
    assert sum(len(one["boxes"]) for one in want) > 50
    same(got, want, rtol=1e-6, atol=1e-4)


def test_retinanet_reads_its_settings_in_every_call():
    """As torchvision's does: people set score_thresh on a model that they have loaded."""
    images = pictures(0, count=1)
    theirs = like_trained(detectors.tiny_retinanet(), images)
    ours = accelerated(theirs)
    for name, value in dict(
        score_thresh=0.07, nms_thresh=0.3, detections_per_img=9, topk_candidates=5
    ).items():
        before = theirs(images)[0]["scores"]
        for model in (ours, theirs):
            setattr(model, name, value)
        with torch.no_grad():
            want = theirs(images)
            assert not torch.equal(want[0]["scores"], before), name
            same(ours(images), want, rtol=1e-6, atol=1e-4)


@pytest.mark.parametrize(
    "settings",
    [{"detections_per_img": None}, {"detections_per_img": 2**62, "topk_candidates": 2**62}]
    + [{"nms_thresh": 1.1}],
    ids=str,
)
def test_retinanet_takes_what_means_all(settings):
    images = pictures(0, count=2)
    theirs = like_trained(detectors.tiny_retinanet(), images)
    ours = accelerated(theirs)
    for model in (ours, theirs):
        vars(model).update(settings)
    with torch.no_grad():
        got, want = ours(images), theirs(images)
    assert [len(one["boxes"]) for one in got] == [len(one["boxes"]) for one in want]


@pytest.mark.parametrize("low_quality", [True, False])
@pytest.mark.parametrize("box_loss", ["l1", "smooth_l1", "giou", "diou", "ciou"])
def test_retinanet_has_the_same_losses_and_gradients(box_loss, low_quality):
    """Rounding in the network decides about gradients: torchvision's own error is the measure."""
    images = pictures(3, count=2)
    targets = some_targets(images)
    theirs = like_trained(detectors.tiny_retinanet(), images)
    theirs.head.regression_head._loss_type = box_loss
    theirs.proposal_matcher.allow_low_quality_matches = low_quality
    ours, exact = accelerated(theirs), copy.deepcopy(theirs).double()
    # In float32 its own normalised images: a ReLU at its kink goes either way.
    truth, true_gradients = gradients(
        exact,
        [image.double() for image in images],
        [t | {"boxes": t["boxes"].double()} for t in targets],
    )
    want, their_gradients = gradients(theirs, images, targets)
    got, our_gradients = gradients(ours, images, targets)
    assert got.keys() == want.keys()
    for name, loss in want.items():
        assert loss > 0.01
        assert abs(got[name] - loss) < 1e-5 * loss, name
    as_exact_as(their_gradients, our_gradients, true_gradients)


def test_retinanet_without_any_box():
    images = pictures(3, count=2)
    targets = [
        {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)} for _ in images
    ]
    theirs = like_trained(detectors.tiny_retinanet(), images)
    want, _ = gradients(theirs, images, targets)
    got, _ = gradients(accelerated(theirs), images, targets)
    assert got["bbox_regression"] == want["bbox_regression"] == 0
    torch.testing.assert_close(got["classification"], want["classification"], rtol=1e-5, atol=0)


def test_retinanet_in_half_precision_is_near_full_precision():
    """Under autocast torchvision computes 1 - p in half precision, and its anchors are rounded."""
    images = pictures(3, count=2)
    targets = some_targets(images)
    full = like_trained(detectors.tiny_retinanet(), images)
    ours = accelerated(full)
    want = full.train()(images, targets)
    with torch.autocast("cpu", torch.bfloat16):
        got = ours.train()(images, targets)
    for name, loss in want.items():
        assert got[name].dtype == torch.float32
        assert abs(got[name] - loss) < 0.02 * loss, name
    sum(got.values()).backward()
    assert all(p.grad.isfinite().all() for p in ours.parameters())
    half = ours.bfloat16().eval()
    found = half([image.bfloat16() for image in images])
    assert all(one["boxes"].dtype == torch.float32 for one in found)


def test_retinanet_refuses_what_torchvisions_refuses():
    images = pictures(0, count=1)
    model = accelerated(detectors.tiny_retinanet()).train()
    label = torch.zeros(1, dtype=torch.int64)
    for targets, message in (
        (None, "targets: expected one per image in training mode, got None"),
        (
            [{"boxes": torch.zeros(1, 5), "labels": label}],
            r"targets\[0\]\['boxes'\]: expected a te",
        ),
        (
            [{"boxes": torch.tensor([[5.0, 5.0, 5.0, 9.0]]), "labels": label}],
            r"targets\[0\]\['boxes'\]: expected positive width and height, got \[",
        ),
    ):
        with pytest.raises(AssertionError, match=message):
            model(images, targets)
    box = torch.tensor([[5.0, 5.0, 50.0, 50.0]])
    with pytest.raises(IndexError, match=rf"labels in \[0, {K}\), got {K}"):
        model(images, [{"boxes": box, "labels": label + K}])


# The others --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SHARED)
def test_others_find_the_same(name):
    """To the bit: only operators were replaced that choose."""
    images = pictures(0)
    theirs = settled(SHARED[name](), images)
    ours = accelerated(theirs)
    with torch.no_grad():
        want = theirs(images)
        assert min(len(one["boxes"]) for one in want) > 10
        same(ours(images), want)


@pytest.mark.parametrize("name", SHARED)
def test_others_have_the_same_losses_and_gradients(name):
    images = pictures(3, count=2)
    targets = some_targets(images, first_class=1)  # 0 is background
    # Of more than 1000 boxes torchvision sorts equal scores as it happens, which decides about the
    # proposals that are sampled.
    few = {"rpn_pre_nms_top_n_train": 300} if name == "FasterRCNN" else {}
    theirs = settled(SHARED[name](**few), images)
    ours = accelerated(theirs)
    found = []
    for model in (theirs, ours):
        torch.manual_seed(1)  # which proposals are sampled
        found.append(gradients(model, images, targets))
    (want, their_gradients), (got, our_gradients) = found
    assert got.keys() == want.keys()
    largest = max(g.norm() for g in their_gradients.values())
    for key, loss in want.items():
        assert loss > 1e-3
        assert abs(got[key] - loss) <= 1e-5 * loss, key
    for key, theirs in their_gradients.items():
        # A bias before a norm has a gradient of rounding errors alone.
        torch.testing.assert_close(
            our_gradients[key], theirs, rtol=1e-4, atol=float(1e-6 * largest), msg=key
        )


@pytest.mark.parametrize("name", SHARED)
def test_others_under_autocast(name):
    """Losses are near full precision, and finite where other proposals may be sampled."""
    images = pictures(3, count=2)
    targets = some_targets(images, first_class=1)
    ours = accelerated(settled(SHARED[name](), images)).train()
    torch.manual_seed(1)
    want = ours(images, targets)
    torch.manual_seed(1)
    with torch.autocast("cpu", torch.bfloat16):
        got = ours(images, targets)
    for key, loss in want.items():
        assert got[key].isfinite(), key
        assert abs(got[key] - loss) < 0.1 * loss or name == "FasterRCNN", key
    sum(got.values()).backward()
    assert all(p.grad.isfinite().all() for p in ours.parameters() if p.grad is not None)


def test_faster_rcnn_never_makes_the_iou_matrix(monkeypatch):
    def refuse(*_):
        raise AssertionError("box_iou was called")

    images = pictures(3, count=2)
    model = accelerated(detectors.tiny_faster_rcnn()).train()
    monkeypatch.setattr(torchvision.ops.boxes, "box_iou", refuse)
    model(images, some_targets(images, first_class=1))


# Convolutions ------------------------------------------------------------------------------------


def test_convolutions_are_close_and_give_the_same_gradients():
    """Here all are narrow; one wide one goes Winograd's way."""
    torch.manual_seed(0)
    images = pictures(3, count=2)
    model = detectors.tiny_retinanet()
    wide = nn.Sequential(
        nn.Conv2d(32, 128, 1), nn.Conv2d(128, 128, 3, padding=1), nn.Conv2d(128, 32, 1)
    )
    model.head.classification_head.conv[0] = wide
    theirs = like_trained(model, images)
    ours = copy.deepcopy(theirs)
    report = accelerate(ours, convolutions=True)
    assert [row.by for row in report.replaced][-2:] == ["channels_last", "Winograd's algorithm"]
    targets = some_targets(images)
    want, their_gradients = gradients(theirs, images, targets)
    got, our_gradients = gradients(ours, images, targets)
    for name, loss in want.items():
        assert abs(got[name] - loss) < 1e-4 * loss, name
    for name, true in their_gradients.items():
        assert (our_gradients[name] - true).norm() < 1e-3 * true.norm(), name
    assert ours.backbone(torch.rand(1, 3, 64, 64))["0"].is_contiguous(
        memory_format=torch.channels_last
    )
    restore(ours)
    with torch.no_grad():
        same(ours.eval()(images), theirs.eval()(images))
