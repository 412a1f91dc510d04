"""A torchvision RetinaNet and ours with its weights are the same detector."""

import copy

import pytest
import torch

from focaldet.models import V2, RetinaNet

pytest.importorskip("torchvision")
from detectors import (  # noqa: E402
    SIZES,
    K,
    gradients,
    is_clear,
    like_trained,
    pictures,
    raw_maps,
    some_targets,
)
from torchvision.models import detection  # noqa: E402

VERSIONS = {
    "v1": (detection.retinanet_resnet50_fpn, {}),
    "v2": (detection.retinanet_resnet50_fpn_v2, V2),
}


def random_detector(version, images):
    torch.manual_seed(0)
    model = VERSIONS[version][0](weights=None, weights_backbone=None, num_classes=K, **SIZES)
    return like_trained(model, images)


def ours_with(model, version, options=None):
    ours = RetinaNet(K, "resnet50", **(SIZES | VERSIONS[version][1] | (options or {})))
    ours.load_state_dict(model.state_dict())  # strict
    return ours.eval()


@pytest.mark.parametrize("version, seed", [("v1", 0), ("v2", 2)])
@torch.no_grad()
def test_same_detections(version, seed):
    images = pictures(seed)
    theirs = random_detector(version, images)
    ours = ours_with(theirs, version)
    logits, deltas, anchors, lengths = raw_maps(theirs, images)
    maps = ours.features(ours.transform.images(images).batch)[0]
    mine = [m.unflatten(1, (9, K)).permute(0, 3, 4, 1, 2).flatten(1, 3) for m in maps]
    mine = torch.cat(mine, dim=1)
    torch.testing.assert_close(mine, logits, rtol=1e-4, atol=1e-4)

    # Twice the difference between the networks, and a few roundings of a score.
    error = 2 * (mine.sigmoid() - logits.sigmoid()).abs().max().item() + 2**-22
    sizes = theirs.transform(images)[0].image_sizes
    clear = [
        is_clear(theirs, logits[i], deltas[i], anchors[i], lengths, size, error)
        for i, size in enumerate(sizes)
    ]
    print(f"{clear.count(False)} of {len(images)} images excluded for close calls")
    assert sum(clear) >= len(images) // 2, f"too few images without close calls: {clear}"
    found = 0
    for got, want, compare in zip(ours(images), theirs(images), clear, strict=True):
        if compare:
            found += len(want["boxes"])
            assert got["labels"].tolist() == want["labels"].tolist()
            torch.testing.assert_close(got["boxes"], want["boxes"], rtol=0, atol=1e-2)
            torch.testing.assert_close(got["scores"], want["scores"], rtol=0, atol=error)
    assert found > 50


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("version, box_loss", [("v1", "l1"), ("v1", "ciou"), ("v2", "giou")])
def test_same_losses_and_gradients(version, box_loss, dtype):
    images = pictures(3, count=2)
    targets = some_targets(images)
    theirs = random_detector(version, images)
    theirs.head.regression_head._loss_type = box_loss
    ours = ours_with(theirs, version, {"normalizer": "image", "box_loss": box_loss}).to(dtype)
    exact = copy.deepcopy(theirs).double()
    # The same images: ours keeps these numbers in float32, and a ReLU at its kink goes either way.
    exact.transform.image_mean = ours.transform.mean.flatten().tolist()
    exact.transform.image_std = ours.transform.std.flatten().tolist()
    wide = [image.double() for image in images]
    double_targets = [t | {"boxes": t["boxes"].double()} for t in targets]
    want, want_gradients = gradients(exact, wide, double_targets)
    if dtype == torch.float64:
        got, got_gradients = gradients(ours, wide, targets)
        theirs, their_gradients = want, want_gradients
    else:  # rounding in the networks decides: torchvision's own error is the measure
        got, got_gradients = gradients(ours, images, targets)
        theirs, their_gradients = gradients(theirs, images, targets)
    assert got.keys() == want.keys()
    for name, loss in want.items():
        assert loss.item() > 0.01
        bound = 1e-5 * loss + 2 * (theirs[name] - loss).abs()
        assert (got[name] - loss).abs() < bound, name
    for name, truth in want_gradients.items():
        error = (got_gradients[name] - truth).norm() / truth.norm()
        theirs_error = (their_gradients[name] - truth).norm() / truth.norm()
        assert error < 2 * theirs_error + 1e-5, f"gradient of {name}: {error:.1e}"
