"""Stand-ins for how detectron2's R-CNNs match boxes; see detectron2_stand_in.py.

What modules of detectron2 look up by name is looked up there, so that it can be replaced.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from detectron2_stand_in import Boxes, Instances, Matcher, module
from torch import Tensor
from torchvision.ops import box_iou

PROPOSALS = "detectron2.modeling.proposal_generator.rpn"
HEADS = "detectron2.modeling.roi_heads.roi_heads"


def pairwise_iou(boxes1: Boxes, boxes2: Boxes) -> Tensor:
    return box_iou(boxes1.tensor, boxes2.tensor)


def retry_if_cuda_oom(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *arguments: function(*arguments)


class RPN:
    @torch.no_grad()
    def label_and_sample_anchors(
        self, anchors: list[Boxes], gt_instances: list[Instances]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """By image, the labels and the boxes of all anchors."""
        table = Boxes(torch.cat([level.tensor for level in anchors]))
        labels, boxes = [], []
        for truth in (each.gt_boxes for each in gt_instances):
            overlap = retry_if_cuda_oom(sys.modules[PROPOSALS].pairwise_iou)(truth, table)
            rows, kinds = retry_if_cuda_oom(self.anchor_matcher)(overlap)
            labels.append(self._subsample_labels(kinds.to(truth.tensor.device)))
            none = len(truth) == 0
            boxes.append(torch.zeros_like(table.tensor) if none else truth.tensor[rows])
        return labels, boxes


class ROIHeads:
    @torch.no_grad()
    def label_and_sample_proposals(
        self, proposals: list[Instances], targets: list[Instances]
    ) -> list[Instances]:
        """The sampled proposals with their classes and boxes."""
        found = []
        for some, truth in zip(proposals, targets, strict=True):
            overlap = sys.modules[HEADS].pairwise_iou(truth.gt_boxes, some.proposal_boxes)
            rows, kinds = self.proposal_matcher(overlap)
            sampled, classes = self._sample_proposals(rows, kinds, truth.gt_classes)
            boxes = truth.gt_boxes.tensor
            boxes = boxes[rows[sampled]] if len(truth) else boxes.new_zeros(len(sampled), 4)
            chosen = some[sampled]
            chosen.gt_classes, chosen.gt_boxes = classes, Boxes(boxes)
            found.append(chosen)
        return found


def install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Matcher, "__module__", "detectron2.modeling.matcher")
    module(monkeypatch, "detectron2.modeling.matcher", Matcher=Matcher)
    module(monkeypatch, PROPOSALS, RPN=RPN, pairwise_iou=pairwise_iou)
    module(monkeypatch, HEADS, ROIHeads=ROIHeads, pairwise_iou=pairwise_iou)
    module(monkeypatch, "detectron2.structures", Boxes=Boxes, pairwise_iou=pairwise_iou)
