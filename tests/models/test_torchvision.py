"""A torchvision RetinaNet and ours with its weights are the same detector."""

import copy

import pytest
import torch
from torch import nn

from focaldet.models import V2, RetinaNet

torchvision = pytest.importorskip("torchvision")
from torchvision.models import detection  # noqa: E402

K = 5
SIZES = dict(min_size=128, max_size=213)
VERSIONS = {
    "v1": (detection.retinanet_resnet50_fpn, {}),
    "v2": (detection.retinanet_resnet50_fpn_v2, V2),
}


def pictures(seed, count=4):
    """Rectangles on noise, of several sizes, so that resizing and padding have work to do."""
    rng = torch.Generator().manual_seed(seed)
    images = []
    for h, w in [(128, 160), (150, 100), (90, 171), (200, 200)][:count]:
        image = torch.rand(3, h, w, generator=rng) * 0.3
        for _ in range(12):
            (x1, x2), (y1, y2) = (
                torch.randint(0, s, (2,), generator=rng).sort()[0] for s in (w, h)
            )
            image[:, y1:y2, x1:x2] += torch.rand(3, 1, 1, generator=rng) - 0.3
        images.append(image.clamp(0, 1))
    return images


def raw_maps(model, images):
    """torchvision's head outputs by image, [N, K] and [N, 4], its anchors and level lengths."""
    batch, _ = model.transform(images)
    features = list(model.backbone(batch.tensors).values())
    out = model.head(features)
    lengths = [f.shape[2] * f.shape[3] * 9 for f in features]
    return (
        out["cls_logits"],
        out["bbox_regression"],
        model.anchor_generator(batch, features),
        lengths,
    )


@torch.no_grad()
def random_detector(version, images):
    """torchvision's model with random weights, scaled on `images` as a trained one's might be:

    batch statistics that fit, box deltas of a third, and logits that spread, with 60 scores per
    image above the threshold.
    """
    torch.manual_seed(0)
    model = VERSIONS[version][0](weights=None, weights_backbone=None, num_classes=K, **SIZES)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    model.train().backbone(model.transform(images)[0].tensors)
    model.eval()
    logits, deltas, _, _ = raw_maps(model, images)
    final = model.head.classification_head.cls_logits
    final.weight *= 1.5 / (logits - final.bias[0]).std()
    model.head.regression_head.bbox_reg.weight *= 0.3 / deltas.std()
    logits = raw_maps(model, images)[0].flatten()
    boundary = logits.topk(60 * len(images) + 1)[0][-2:].mean()  # between two of them
    final.bias += torch.tensor(model.score_thresh).logit() - boundary
    return model


def ours_with(model, version, options=None):
    ours = RetinaNet(K, "resnet50", **(SIZES | VERSIONS[version][1] | (options or {})))
    ours.load_state_dict(model.state_dict())  # strict
    return ours.eval()


def is_clear(model, logits, deltas, anchors, lengths, size, error):
    """Whether no decision about an image hangs on less than `error` in a score, 1e-5 in an IoU."""
    boxes, scores, labels = [], [], []
    parts = (part.split(lengths) for part in (logits, deltas, anchors))
    for level_logits, level_deltas, level_anchors in zip(*parts, strict=True):
        s = level_logits.sigmoid().flatten()
        if ((s - model.score_thresh).abs() <= error).any():
            return False
        index = (s > model.score_thresh).nonzero()[:, 0]
        if len(index) > model.topk_candidates:
            return False
        rows = index // K
        decoded = model.box_coder.decode_single(level_deltas[rows], level_anchors[rows])
        boxes.append(torchvision.ops.clip_boxes_to_image(decoded, size))
        scores.append(s[index])
        labels.append(index % K)
    boxes, scores, labels = torch.cat(boxes), torch.cat(scores), torch.cat(labels)
    iou = torchvision.ops.box_iou(boxes, boxes)[labels[:, None] == labels]  # NaN: empty boxes
    close = ((iou - model.nms_thresh).abs() <= 1e-5).any() | (
        scores.sort()[0].diff() <= error
    ).any()
    return not close


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


def some_targets(images):
    rng = torch.Generator().manual_seed(0)
    targets = []
    for image, n in zip(images, [7, 0], strict=True):
        size = torch.tensor([image.shape[2], image.shape[1]])
        corner = torch.rand(n, 2, generator=rng) * size * 0.6
        extent = (0.15 + 0.25 * torch.rand(n, 2, generator=rng)) * size
        boxes = torch.cat([corner, corner + extent], dim=1)
        targets.append({"boxes": boxes, "labels": torch.randint(0, K, (n,), generator=rng)})
    return targets


def gradients(model, images, targets):
    """The losses, and their gradients by parameter, at fixed batch statistics."""
    model.train()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    losses = model(images, targets)
    sum(losses.values()).backward()
    return losses, {name: p.grad for name, p in model.named_parameters()}


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
