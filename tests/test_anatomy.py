"""An image's anchors, matches and losses are those of the model; Figure 4's curve is numpy's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny_runs import SIZE, tiny_model
from torch import Tensor

from focaldet.anatomy import anatomy, class_losses, cumulative_share
from focaldet.models import RetinaNet
from focaldet.models.losses import LOSSES
from focaldet.ops import box_iou

TARGET = {
    "boxes": torch.tensor([[4.0, 6, 40, 50], [30, 20, 60, 40], [1, 1, 9, 8]]),
    "labels": torch.tensor([0, 2, 1]),
}
NOTHING = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}


def image(height: int = SIZE, width: int = SIZE) -> Tensor:
    return torch.rand(3, height, width, generator=torch.Generator().manual_seed(1))


def model(**changes: object) -> RetinaNet:
    return tiny_model(**changes).eval()


def test_anchors_are_in_pixels_of_the_image_and_in_the_maps_order() -> None:
    found = anatomy(net := model(), image(96, 48))  # resized to 64 x 32
    sizes = [(8, 4), (4, 2), (2, 1), (1, 1), (1, 1)]
    assert found.level.bincount().tolist() == [9 * h * w for h, w in sizes]
    assert found.size == (64, 32) and found.scale.tolist() == pytest.approx([2 / 3] * 4)
    # The anchor 4 of the place (3, 1) of the first level, by hand: its centre is on the stride.
    row = (3 * 4 + 1) * 9 + 4
    centre = (found.anchors[row, :2] + found.anchors[row, 2:]) / 2
    assert centre.tolist() == pytest.approx([8 * 1.5, 24 * 1.5])
    batch = net.transform.images([image(96, 48)]).batch
    cls_logits, _ = net.features(batch)
    assert torch.equal(found.logits[row], cls_logits[0][0, 4 * 3 : 5 * 3, 3, 1])


def test_boxes_are_those_that_the_model_detects() -> None:
    net = model(score_thresh=0.0, detections_per_img=20)
    (detected,) = net([image(96, 48)])
    found = anatomy(net, image(96, 48))
    limit = torch.tensor([48.0, 96, 48, 96])
    clipped = torch.minimum(found.boxes.clamp(min=0), limit)
    scores = found.logits.sigmoid()
    for box, score, label in zip(
        *(detected[k] for k in ("boxes", "scores", "labels")), strict=True
    ):
        near = (clipped - box).abs().amax(1) < 1e-3
        assert (scores[near, label] - score).abs().min() < 1e-6


def test_matches_are_those_of_the_iou_matrix() -> None:
    net = model(low_quality="none")
    found = anatomy(net, image(), TARGET)
    iou = box_iou(TARGET["boxes"], found.anchors).numpy()
    match = iou.argmax(0)
    match[iou.max(0) < 0.5] = -2
    match[iou.max(0) < 0.4] = -1
    assert found.match.tolist() == match.tolist()
    assert set(match) >= {-2, -1, 0, 1}, "every kind is there"
    labels = [TARGET["labels"][m].item() if m >= 0 else m for m in match]
    assert found.labels.tolist() == labels


def test_without_a_target_anchors_are_ignored_and_without_objects_background() -> None:
    for target, label in ((None, -2), (NOTHING, -1)):
        found = anatomy(model(), image(), target)
        assert set(found.match.tolist()) == set(found.labels.tolist()) == {label}
    assert not class_losses(anatomy(model(), image())).any()


@pytest.mark.parametrize("loss", [name for name in LOSSES if "ohem" not in name])
@pytest.mark.parametrize("target", [TARGET, NOTHING], ids=["objects", "none"])
def test_losses_add_up_to_the_models(loss: str, target: dict[str, Tensor]) -> None:
    """Float32 sums of some thousand losses, in another order."""
    net = model(loss=loss, alpha=0.3, gamma=1.5)
    found = anatomy(net, image(), target)
    with torch.no_grad():
        expected = _loss(net, target)
    total = class_losses(found).double().sum() / max(1, int((found.labels >= 0).sum()))
    assert total.item() == pytest.approx(expected, rel=1e-5)


def _loss(net: RetinaNet, target: dict[str, Tensor]) -> float:
    """In eval mode, which calls of the model would not give."""
    batch, _, scales = net.transform.images([image()])
    packed = net.transform.targets([target], scales, net.num_classes)
    return net.loss(batch, *packed).classification.item()


def test_losses_are_the_formula() -> None:
    found = anatomy(model(loss="ohem"), image(), TARGET)
    p = 1 / (1 + np.exp(-found.logits.double().numpy()))
    hot = found.labels.numpy()[:, None] == np.arange(3)
    p_t = np.where(hot, p, 1 - p)
    known = found.labels.numpy() != -2
    cross_entropy = -np.log(p_t).sum(1) * known
    np.testing.assert_allclose(class_losses(found), cross_entropy, rtol=1e-5)
    focal = (np.where(hot, 0.25, 0.75) * (1 - p_t) ** 2 * -np.log(p_t)).sum(1) * known
    np.testing.assert_allclose(class_losses(found, 0.25, 2.0), focal, rtol=1e-4)


def test_the_cumulative_share_is_numpys() -> None:
    losses = torch.rand(1234) ** 8
    rising = np.sort(losses.double().numpy())
    steps = np.concatenate([[0], rising.cumsum()]) / rising.sum()
    for points in (2, 7, 1235, 5000):
        expected = np.interp(np.linspace(0, 1, points), np.linspace(0, 1, 1235), steps)
        np.testing.assert_allclose(cumulative_share(losses, points), expected, rtol=1e-9, atol=0)


def test_the_cumulative_share_of_little() -> None:
    assert cumulative_share(torch.tensor([1.0, 3.0]), 5).tolist() == [0, 0.125, 0.25, 0.625, 1]
    assert cumulative_share(torch.tensor([5.0]), 3).tolist() == [0, 0.5, 1]
    for nothing in (torch.zeros(0), torch.zeros(9)):
        assert cumulative_share(nothing, 4).tolist() == [0, 0, 0, 0]
    with pytest.raises(ValueError, match="points: expected at least 2, got 1"):
        cumulative_share(torch.ones(3), 1)


def test_the_cumulative_share_does_not_lose_small_losses() -> None:
    """A float32 sum would stop growing."""
    losses = torch.cat([torch.full((1_000_000,), 1e-9), torch.tensor([1.0])])
    assert cumulative_share(losses, 2 + 1_000_000)[-2].item() == pytest.approx(
        1e-3 / 1.001, rel=1e-6
    )


def test_a_criterion_of_ones_own_is_refused() -> None:
    net = model()
    net.criterion = lambda *_: None
    with pytest.raises(ValueError, match="criterion: expected a loss made by make_loss"):
        anatomy(net, image())
