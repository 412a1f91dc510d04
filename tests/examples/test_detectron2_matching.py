"""examples/detectron2_ops.py: detectron2's matcher of boxes, without the matrix of IoUs.

With stand-ins, and with detectron2 where it is installed; see test_detectron2_ops.py.
"""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("torchvision", reason="torchvision is not installed")
from detectron2_package import CLASSES, Package

OURS = [
    ([0.3, 0.7], [0, -1, 1]),
    ([0.5], [0, 1]),
    ([0.5], [-1, 1]),
    ([0.3, 0.6], [-1, 0, 1]),
    ([0.4, 0.4], [0, -1, 1]),
]
THEIRS = [
    ([0.1, 0.3, 0.6], [0, -1, 0, 1]),
    ([0.3, 0.6], [0, 1, 1]),
    ([0.3, 0.6], [0, 1, 0]),
    ([1.5], [0, 1]),
]


def crowd(package: Package, n: int = 600) -> Any:
    """Boxes like anchors: many overlap."""
    corner = (torch.rand(n, 2) * 80).round()
    return package.parts.Boxes(
        torch.cat([corner, corner + (12 + torch.rand(n, 2) * 40).round()], 1)
    )


def refuse(*_: Any) -> Tensor:
    raise AssertionError("the matrix was made")


@pytest.mark.parametrize("low_quality", [True, False])
@pytest.mark.parametrize("rules", OURS, ids=str)
def test_labels_without_the_matrix(
    package: Package, rules: tuple[Any, ...], low_quality: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, matcher = package.recipe, package.parts.Matcher(*rules, low_quality)
    anchors, levels = crowd(package, 60), set()  # too few for every box to have a near one
    for truth in package.truth((9, 1, 200)):
        rows, labels = matcher(package.parts.pairwise_iou(truth.gt_boxes, anchors))
        with recipe.accelerate_matching(), monkeypatch.context() as patch:
            patch.setattr(recipe.Pairs, "matrix", refuse)
            our_rows, our_labels = matcher(recipe.pairwise_iou(truth.gt_boxes, anchors))
        assert our_labels.dtype == labels.dtype == torch.int8 and our_rows.dtype == rows.dtype
        assert torch.equal(our_labels, labels)
        assert torch.equal(our_rows[labels == 1], rows[labels == 1])
        assert (our_rows[labels != 1] == 0).all()
        levels |= set(labels.tolist())
    assert levels >= {rules[1][0], 1}


@pytest.mark.parametrize("rules", THEIRS, ids=str)
def test_rules_that_ours_lacks_are_theirs(package: Package, rules: tuple[Any, ...]) -> None:
    matcher, anchors = package.parts.Matcher(*rules, True), crowd(package)
    boxes = package.truth((9,))[0].gt_boxes
    want = matcher(package.parts.pairwise_iou(boxes, anchors))
    with package.recipe.accelerate_matching():
        got = matcher(package.recipe.pairwise_iou(boxes, anchors))
    assert all(map(torch.equal, got, want))


def test_who_reads_the_matrix_gets_it(package: Package) -> None:
    """A matcher with a low-quality rule of its own, arithmetic, who writes to it."""
    recipe, anchors = package.recipe, crowd(package)
    boxes = package.truth((9,))[0].gt_boxes
    matrix = package.parts.pairwise_iou(boxes, anchors)

    class Own(package.parts.Matcher):
        def set_low_quality_matches_(self, labels: Tensor, quality: Tensor) -> None:
            labels[quality.max(dim=0).values > 0.2] = 1

    own = Own([0.3, 0.7], [0, -1, 1], True)
    matcher = package.parts.Matcher([0.3, 0.7], [0, -1, 1], True)
    want = own(matrix)
    with recipe.accelerate_matching():
        pairs = recipe.pairwise_iou(boxes, anchors)
        assert isinstance(pairs, recipe.Pairs) and pairs.shape == matrix.shape
        assert all(map(torch.equal, own(pairs), want))
        assert torch.equal(torch.cat([pairs, pairs * 2]), torch.cat([matrix, matrix * 2]))
        pairs[:, :300] = 0
        written = matcher(pairs)
    matrix[:, :300] = 0
    assert all(map(torch.equal, written, matcher(matrix)))


def test_when_the_matrix_is_made_at_once(package: Package) -> None:
    parts, anchors = package.parts, crowd(package)
    boxes = package.truth((3,))[0].gt_boxes
    none = parts.Boxes(torch.zeros(0, 4))
    matcher = parts.Matcher([0.5], [-1, 1], True)
    with package.recipe.accelerate_matching():
        for one, other in ((none, anchors), (boxes, none)):
            matrix = package.recipe.pairwise_iou(one, other)
            assert type(matrix) is Tensor
            assert (matcher(matrix)[1] == -1).all()
        leaf = boxes.tensor.clone().requires_grad_()
        package.recipe.pairwise_iou(parts.Boxes(leaf), anchors).sum().backward()
    assert leaf.grad.abs().sum() > 0


def test_proposals_and_regions(package: Package, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = package.parts
    anchors, truth = [crowd(package, 400), crowd(package, 200)], package.truth((9, 0, 30))
    rpn = SimpleNamespace(
        anchor_matcher=parts.Matcher([0.3, 0.7], [0, -1, 1], True),
        anchor_boundary_thresh=-1,
        _subsample_labels=lambda labels: labels,
    )

    def every_one(rows: Tensor, labels: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
        known = classes[rows] if len(classes) else torch.zeros_like(rows)
        return torch.arange(len(rows)), torch.where(labels == 1, known, CLASSES)

    heads = SimpleNamespace(
        proposal_matcher=parts.Matcher([0.5], [0, 1], False),
        proposal_append_gt=False,
        num_classes=CLASSES,
        _sample_proposals=every_one,
    )
    proposals = [parts.Instances((128, 128), proposal_boxes=anchors[0]) for _ in truth]

    def run() -> list[Tensor]:
        labels, boxes = parts.RPN.label_and_sample_anchors(rpn, anchors, truth)
        chosen = parts.ROIHeads.label_and_sample_proposals(heads, proposals, truth)
        found = [box[label == 1] for label, box in zip(labels, boxes, strict=True)] + labels
        for each in chosen:
            found += [each.gt_classes, each.gt_boxes.tensor[each.gt_classes < CLASSES]]
        return found

    want = run()
    with package.recipe.accelerate_matching(), monkeypatch.context() as patch:
        patch.setattr(package.recipe.Pairs, "matrix", refuse)
        got = run()
    assert all(map(torch.equal, got, want)) and len(want[0]) > 9


def test_what_is_replaced_and_put_back(package: Package) -> None:
    names = [
        "detectron2.modeling.matcher.Matcher.__call__",
        "detectron2.modeling.proposal_generator.rpn.pairwise_iou",
        "detectron2.modeling.roi_heads.roi_heads.pairwise_iou",
    ]
    structures = sys.modules["detectron2.structures"]
    theirs, function = structures.pairwise_iou, package.parts.Matcher.__call__
    swap = package.recipe.accelerate_matching()
    try:
        assert set(names) <= set(swap.replaced)
        assert structures.pairwise_iou is theirs  # evaluation and trackers read the matrix
        assert package.parts.Matcher.__call__ is package.recipe.match
    finally:
        swap.undo()
    assert package.parts.Matcher.__call__ is function
    for name in names[1:]:
        assert sys.modules[name.rpartition(".")[0]].pairwise_iou is theirs
