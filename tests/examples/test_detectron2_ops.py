"""examples/detectron2_ops.py against detectron2's own RetinaNet and functions.

detectron2 is on no package index. Where it is not installed, the tests run with stand-ins alone
(tests/detectron2_stand_in.py), and those with the real package are skipped.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("torchvision", reason="torchvision is not installed")
from detectron2_package import CLASSES, RATIOS, SIZES, STRIDES, Package


def maps(images: int = 3) -> tuple[list[Tensor], list[list[Tensor]]]:
    """Features, and logits and deltas of six anchors, by level, as the head gives them."""
    sizes = [128 // stride for stride in STRIDES]
    per_position = len(RATIOS) * len(SIZES[0])
    features = [torch.zeros(images, 8, size, size) for size in sizes]
    predictions = [
        [torch.randn(images, per_position * n, size, size, requires_grad=True) for size in sizes]
        for n in (CLASSES, 4)
    ]
    return features, predictions


BOX_LOSSES = [
    {"smooth_l1_beta": 0.1},
    {"smooth_l1_beta": 0.0},  # L1
    {"box_reg_loss_type": "giou"},
]


@pytest.mark.parametrize("changes", BOX_LOSSES, ids=str)
def test_losses_and_gradients(package: Package, changes: dict[str, Any]) -> None:
    """Twice, as the normalizer is a moving average."""
    features, predictions = maps()
    truth, leaves = package.truth(), [level for part in predictions for level in part]
    theirs, ours = (package.model(each, **changes) for each in (False, True))
    for _ in range(2):
        found = []
        for model in (theirs, ours):
            losses = model.forward_training(None, features, predictions, truth)
            gradients = torch.autograd.grad(sum(losses.values()), leaves)
            found.append([losses["loss_cls"], losses["loss_box_reg"], *gradients])
        torch.testing.assert_close(found[1], found[0], rtol=1e-5, atol=1e-7)
        assert ours.loss_normalizer == pytest.approx(theirs.loss_normalizer)
    assert found[0][1] > 0.01


def test_no_boxes_at_all(package: Package) -> None:
    features, predictions = maps(images=2)
    losses = [
        package.model(ours).forward_training(None, features, predictions, package.truth((0, 0)))
        for ours in (False, True)
    ]
    torch.testing.assert_close(losses[1], losses[0])
    assert losses[1]["loss_box_reg"] == 0


@pytest.mark.parametrize("low_quality", [True, False])
def test_labels_of_anchors(package: Package, low_quality: bool) -> None:
    """Of a crowd, too, in which the best anchor of one box is nearer to another."""
    matcher = package.parts.Matcher([0.4, 0.5], [0, -1, 1], low_quality)
    features, truth = maps()[0], package.truth((9, 0, 200))
    theirs, ours = (package.model(each, anchor_matcher=matcher) for each in (False, True))
    anchors = theirs.anchor_generator(features)
    labels, boxes = ours.label_anchors(anchors, truth)
    their_labels, their_boxes = theirs.label_anchors(anchors, truth)
    for one, other, box, their_box in zip(labels, their_labels, boxes, their_boxes, strict=True):
        assert torch.equal(one, other)
        foreground = (one >= 0) & (one < CLASSES)
        assert torch.equal(box[foreground], their_box[foreground])
    assert {-1, CLASSES} < set(labels[0].tolist())


def test_detections(package: Package) -> None:
    features, predictions = maps()
    images = SimpleNamespace(image_sizes=[(128, 128), (100, 128), (128, 90)])
    with torch.no_grad():
        theirs, ours = (
            package.model(each).forward_inference(
                images, features, [[level.clone() for level in part] for part in predictions]
            )
            for each in (False, True)
        )
    for one, other in zip(ours, theirs, strict=True):
        assert len(one) == 100
        torch.testing.assert_close(one.pred_boxes.tensor, other.pred_boxes.tensor)
        assert torch.equal(one.scores, other.scores)
        assert torch.equal(one.pred_classes, other.pred_classes)


def test_what_the_class_rejects(package: Package) -> None:
    matcher = package.parts.Matcher([0.4, 0.5], [0, 1, 1], True)
    with pytest.raises(ValueError, match=r"expected MODEL.RETINANET.IOU_LABELS .* got \[0, 1, 1\]"):
        package.model(True, anchor_matcher=matcher)
    coder = package.parts.Box2BoxTransform(weights=(10.0, 10.0, 5.0, 5.0))
    with pytest.raises(ValueError, match=r"BBOX_REG_WEIGHTS of 1, got \(10.0, 10.0, 5.0, 5.0\)"):
        package.model(True, box2box_transform=coder)


def test_the_functions(package: Package, capsys: pytest.CaptureFixture[str]) -> None:
    package.recipe.main()
    printed = capsys.readouterr().out
    for name in ("batched_nms", "sigmoid_focal_loss_jit"):
        assert f"replaced detectron2.modeling.meta_arch.retinanet.{name}" in printed
    assert "the boxes kept agree" in printed


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("alpha", [-1, 0.25])
def test_fvcore(package: Package, reduction: str, alpha: float) -> None:
    """Its function for bfloat16 gives float32, which is compared with ours of the same numbers."""
    from fvcore.nn import sigmoid_focal_loss_jit

    for dtype in (torch.float32, torch.bfloat16):
        logits, targets = torch.randn(50, 7).to(dtype), torch.rand(50, 7).round().to(dtype)
        arguments = logits, targets, alpha, 1.5, reduction
        ours = package.recipe.sigmoid_focal_loss(*arguments)
        torch.testing.assert_close(ours, sigmoid_focal_loss_jit(*arguments), rtol=1e-5, atol=1e-7)
