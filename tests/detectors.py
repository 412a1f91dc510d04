"""torchvision's detectors with random weights, and how their detections are compared."""

import copy
from functools import partial

import torch
import torchvision
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torchvision.models import detection
from torchvision.models.detection import retinanet, ssd
from torchvision.models.detection.anchor_utils import AnchorGenerator, DefaultBoxGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead

from focaldet.integrations.torchvision import accelerate

K = 5
SIZES = dict(min_size=128, max_size=213)


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
def settled(model, images):
    """With batch statistics that fit the images, in eval mode."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    model.train().backbone(model.transform(images)[0].tensors)
    return model.eval()


@torch.no_grad()
def like_trained(model, images):
    """A RetinaNet with random weights, scaled on `images` as a trained one's might be:

    batch statistics that fit, box deltas of a third, and logits that spread, with 60 scores per
    image above the threshold.
    """
    settled(model, images)
    logits, deltas, _, _ = raw_maps(model, images)
    final = model.head.classification_head.cls_logits
    final.weight *= 1.5 / (logits - final.bias[0]).std()
    model.head.regression_head.bbox_reg.weight *= 0.3 / deltas.std()
    logits = raw_maps(model, images)[0].flatten()
    boundary = logits.topk(60 * len(images) + 1)[0][-2:].mean()  # between two of them
    final.bias += torch.tensor(model.score_thresh).logit() - boundary
    return model


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


def some_targets(images, first_class=0):
    """Seven boxes in the first image, none in the second."""
    rng = torch.Generator().manual_seed(0)
    targets = []
    for image, n in zip(images, [7, 0], strict=True):
        size = torch.tensor([image.shape[2], image.shape[1]])
        corner = torch.rand(n, 2, generator=rng) * size * 0.6
        extent = (0.15 + 0.25 * torch.rand(n, 2, generator=rng)) * size
        boxes = torch.cat([corner, corner + extent], dim=1)
        targets.append(
            {"boxes": boxes, "labels": torch.randint(first_class, K, (n,), generator=rng)}
        )
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


# Accelerated, and as they were ------------------------------------------------------------------

ULP = 2**-22  # a few roundings of a score


def accelerated(model, **options):
    model = copy.deepcopy(model)
    accelerate(model, **options)
    return model


def same(got, want, rtol=0.0, atol=0.0):
    for mine, theirs in zip(got, want, strict=True):
        assert mine.keys() == theirs.keys()
        assert mine["labels"].tolist() == theirs["labels"].tolist()
        torch.testing.assert_close(mine["boxes"], theirs["boxes"], rtol=rtol, atol=atol)
        torch.testing.assert_close(mine["scores"], theirs["scores"], rtol=rtol, atol=atol)


def without_close_calls(model, images):
    """Of which images the detections of a RetinaNet do not hang on rounding, a bool each."""
    logits, deltas, anchors, lengths = raw_maps(model, images)
    sizes = model.transform(images)[0].image_sizes
    clear = [
        is_clear(model, logits[i], deltas[i], anchors[i], lengths, size, ULP)
        for i, size in enumerate(sizes)
    ]
    print(f"{clear.count(False)} of {len(images)} images excluded for close calls")
    return clear


def as_exact_as(theirs, ours, exact):
    """Gradients by name: torchvision's own error against float64 is the measure."""
    for name, true in exact.items():
        error, bound = ((g[name] - true).norm() / true.norm() for g in (ours, theirs))
        assert error < 2 * bound + 1e-5, f"gradient of {name}: {error:.1e}, theirs {bound:.1e}"


class Called(TorchDispatchMode):
    """The operators that are called within."""

    def __init__(self):
        super().__init__()
        self.names = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.names.add(str(function).removesuffix(".default"))
        return function(*args, **(kwargs or {}))

    def ours(self):
        return {n.removeprefix("focaldet.") for n in self.names if n.startswith("focaldet.")}


# Detectors that take milliseconds ----------------------------------------------------------------

LEVELS = 3


class Tiny(nn.Module):
    """Three levels of 32 channels, strides 4, 8 and 16."""

    out_channels = 32

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 32, 7, stride=2, padding=3)
        self.body = nn.ModuleList(nn.Conv2d(32, 32, 3, 2, 1, bias=False) for _ in range(LEVELS))
        self.norms = nn.ModuleList(nn.BatchNorm2d(32) for _ in range(LEVELS))

    def forward(self, x):
        x, levels = self.stem(x), {}
        for i, (conv, norm) in enumerate(zip(self.body, self.norms, strict=True)):
            x = levels[str(i)] = norm(conv(x)).relu()
        return levels


def anchors(ratios=(0.5, 1.0, 2.0), octaves=3):
    sizes = tuple(
        tuple(int(size * 2 ** (octave / 3)) for octave in range(octaves)) for size in (16, 32, 64)
    )
    return AnchorGenerator(sizes, (ratios,) * LEVELS)


def tiny_retinanet(version="v1", **options):
    torch.manual_seed(0)
    backbone = Tiny()
    norm = {"v1": None, "v2": partial(nn.GroupNorm, 32)}[version]
    head = retinanet.RetinaNetHead(32, 9, K, norm_layer=norm)
    head.regression_head._loss_type = {"v1": "l1", "v2": "giou"}[version]
    return detection.RetinaNet(
        backbone, K, anchor_generator=anchors(), head=head, **SIZES | options
    )


def tiny_fcos(**options):
    torch.manual_seed(0)
    grid = anchors(ratios=(1.0,), octaves=1)
    model = detection.FCOS(Tiny(), K, anchor_generator=grid, **SIZES | options)
    for last in (model.head.classification_head.cls_logits, model.head.regression_head.bbox_reg):
        nn.init.normal_(last.weight, std=0.1)  # new ones find boxes of no extent
    nn.init.ones_(model.head.regression_head.bbox_reg.bias)
    return model


def tiny_faster_rcnn(**options):
    torch.manual_seed(0)
    pool = torchvision.ops.MultiScaleRoIAlign([str(i) for i in range(LEVELS)], 3, 2)
    return detection.FasterRCNN(
        Tiny(),
        box_roi_pool=pool,
        box_head=TwoMLPHead(32 * 9, 64),
        box_predictor=FastRCNNPredictor(64, K),
        rpn_anchor_generator=anchors(octaves=1),
        **SIZES | options,
    )


def tiny_ssd(**options):
    torch.manual_seed(0)
    boxes = DefaultBoxGenerator([[2]] * LEVELS)
    head = ssd.SSDHead([32] * LEVELS, boxes.num_anchors_per_location(), K)
    return ssd.SSD(Tiny(), boxes, (128, 128), K, head=head, **options)
