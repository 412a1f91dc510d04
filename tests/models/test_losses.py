"""The selectable losses, each against a plain computation."""

import pytest
import torch
import torch.nn.functional as F

from focaldet.models.losses import LOSSES, make_loss
from focaldet.ops import AnchorGrid, box_iou, generate_anchors, match_anchors

K = 3
SHARED = dict(
    fg_iou=0.5,
    bg_iou=0.4,
    low_quality="torchvision",
    box_loss="smooth_l1",
    beta=0.1,
    normalizer="batch",
)
SETTINGS = dict(alpha=0.25, gamma=2.0, ohem_batch=40, ohem_nms_thresh=0.7)


@pytest.fixture
def case():
    """Raw maps of three 96 x 64 images, the second without boxes."""
    torch.manual_seed(0)
    grid = AnchorGrid.torchvision()
    a = len(grid.cell_anchors[0])
    sizes = [(12, 8), (6, 4), (3, 2), (2, 1), (1, 1)]
    anchors = grid.at(sizes, (96, 64))
    boxes = torch.tensor(
        [[4.0, 4, 40, 30], [20, 30, 60, 90], [8, 8, 30, 60], [0, 50, 45, 95], [30, 2, 62, 34]]
    )
    return dict(
        cls_logits=[(torch.randn(3, a * K, *s) - 2).requires_grad_() for s in sizes],
        box_deltas=[torch.randn(3, a * 4, *s).mul(0.3).requires_grad_() for s in sizes],
        anchors=anchors,
        gt_boxes=boxes,
        gt_labels=torch.tensor([0, 2, 1, 1, 0]),
        gt_splits=torch.tensor([0, 2, 2, 5]),
    )


def flat(maps, channels):  # L x [B, A*C, H, W] -> [B, N, C]
    a = maps[0].shape[1] // channels
    return torch.cat(
        [m.unflatten(1, (a, channels)).permute(0, 3, 4, 1, 2).flatten(1, 3) for m in maps], 1
    )


def matches(case):
    """int64 [B, N]: row of gt_boxes, -1 background, -2 ignored."""
    match = match_anchors(case["anchors"], case["gt_boxes"], case["gt_splits"]).long()
    return torch.where(match >= 0, match + case["gt_splits"][:-1, None], match)


def cross_entropy(case):
    """Each anchor's binary cross entropy over the classes [B, N], 0 where ignored."""
    match = matches(case)
    targets = torch.zeros(*match.shape, K)
    image, anchor = (match >= 0).nonzero(as_tuple=True)
    targets[image, anchor, case["gt_labels"][match[image, anchor]]] = 1
    logits = flat(case["cls_logits"], K)
    loss = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    return loss * (match != -2)[..., None], targets


@pytest.mark.parametrize("name", LOSSES)
def test_finite_with_gradients(case, name):
    classification, box, n_foreground = make_loss(name, **SETTINGS, **SHARED)(*case.values())
    assert n_foreground.item() == (matches(case) >= 0).sum().item() > 0
    assert classification.isfinite() and box.isfinite() and classification > 0 and box > 0
    (classification + box).backward()
    for level in [*case["cls_logits"], *case["box_deltas"]]:
        assert level.grad.isfinite().all()


@pytest.mark.parametrize("name", LOSSES)
def test_the_box_loss_is_the_same(case, name):
    _, box, n_foreground = make_loss(name, **SETTINGS, **SHARED)(*case.values())
    match = matches(case)
    foreground = match >= 0
    anchors = generate_anchors(case["anchors"]).expand(3, -1, -1)[foreground]
    boxes = case["gt_boxes"][match[foreground]]
    size, gt_size = anchors[:, 2:] - anchors[:, :2], boxes[:, 2:] - boxes[:, :2]
    center, gt_center = anchors[:, :2] + size / 2, boxes[:, :2] + gt_size / 2
    want = torch.cat([(gt_center - center) / size, (gt_size / size).log()], dim=1)
    got = flat(case["box_deltas"], 4)[foreground]
    loss = F.smooth_l1_loss(got, want, beta=0.1, reduction="sum") / n_foreground
    torch.testing.assert_close(box, loss, rtol=1e-5, atol=0)


def test_cross_entropy(case):
    classification, _, n_foreground = make_loss("cross_entropy", **SETTINGS, **SHARED)(
        *case.values()
    )
    want = cross_entropy(case)[0].sum() / n_foreground
    torch.testing.assert_close(classification, want, rtol=1e-5, atol=0)


def test_balanced_cross_entropy(case):
    loss = make_loss("balanced_cross_entropy", **SETTINGS | {"alpha": 0.9}, **SHARED)
    classification, _, n_foreground = loss(*case.values())
    entropy, targets = cross_entropy(case)
    want = (entropy * (0.9 * targets + 0.1 * (1 - targets))).sum() / n_foreground
    torch.testing.assert_close(classification, want, rtol=1e-5, atol=0)


def mined(loss, boxes, keep, iou_threshold):
    """Indices of the `keep` highest losses that greedy NMS leaves, one at a time."""
    overlap = box_iou(boxes, boxes)
    left = loss > 0
    picked = []
    while left.any() and len(picked) < keep:
        best = int(torch.where(left, loss, -1).argmax())
        picked.append(best)
        left &= overlap[best] <= iou_threshold
        left[best] = False
    return picked


@pytest.mark.parametrize("normalizer", ["batch", "image"])
def test_ohem_keeps_the_hardest(case, normalizer):
    loss = make_loss("ohem", **SETTINGS, **SHARED | {"normalizer": normalizer})
    classification, _, _ = loss(*case.values())
    entropy = cross_entropy(case)[0].sum(-1)
    boxes = generate_anchors(case["anchors"])
    picked = [mined(image, boxes, 40, 0.7) for image in entropy]
    assert all(len(p) == 40 for p in picked)
    sums = torch.stack([image[p].sum() for image, p in zip(entropy, picked, strict=True)])
    foreground = (matches(case) >= 0).sum(1)
    if normalizer == "image":
        want = (sums / foreground.clamp(min=1)).mean()
    else:
        want = sums.sum() / foreground.sum()
    torch.testing.assert_close(classification, want, rtol=1e-5, atol=0)
    classification.backward()
    touched = flat([level.grad for level in case["cls_logits"]], K).abs().sum(-1) > 0
    assert touched.sum(1).tolist() == [40, 40, 40]


def test_ohem_one_to_three(case):
    settings = SETTINGS | {"ohem_batch": 8}  # 2 foreground, 6 background anchors an image
    make_loss("ohem_1to3", **settings, **SHARED)(*case.values())[0].backward()
    touched = flat([level.grad for level in case["cls_logits"]], K).abs().sum(-1) > 0
    entropy = cross_entropy(case)[0].sum(-1).detach()
    boxes = generate_anchors(case["anchors"])
    foreground = matches(case) >= 0
    for i in range(3):
        survivors = mined(entropy[i], boxes, len(boxes), 0.7)
        positive = [j for j in survivors if foreground[i, j]][:2]
        negative = [j for j in survivors if not foreground[i, j]][: 3 * len(positive)]
        assert touched[i].nonzero()[:, 0].tolist() == sorted(positive + negative), f"image {i}"
    assert touched.sum(1).tolist() == [8, 0, 8]


@pytest.mark.parametrize("name", LOSSES)
def test_no_boxes_at_all(case, name):
    case |= dict(
        gt_boxes=torch.zeros(0, 4),
        gt_labels=torch.zeros(0, dtype=torch.int64),
        gt_splits=torch.zeros(4, dtype=torch.int64),
    )
    classification, box, n_foreground = make_loss(name, **SETTINGS, **SHARED)(*case.values())
    (classification + box).backward()
    assert classification.isfinite() and box.item() == 0 and n_foreground.item() == 0
    for level in [*case["cls_logits"], *case["box_deltas"]]:
        assert level.grad.isfinite().all()
