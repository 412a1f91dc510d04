"""Stand-ins for what examples/detectron2_ops.py uses of detectron2, which is on no package index.

Written from detectron2's documentation and sources (v0.6): the same names, arguments and results,
as little of them as the tests need, in plain torch. They show that the recipe calls detectron2 as
this file believes it to be; only a run with the real package shows that the belief is right.
"""

from __future__ import annotations

import math
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import batched_nms as coordinate_nms
from torchvision.ops import box_iou, generalized_box_iou_loss, sigmoid_focal_loss

STORAGE: dict[str, float] = {}  # the scalars of an EventStorage
REGISTRY: dict[str, type] = {}


class Boxes:
    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor

    def __len__(self) -> int:
        return len(self.tensor)


class Instances:
    """Fields of one length for one image."""

    def __init__(self, image_size: tuple[int, int], **fields: Any) -> None:
        self.image_size = image_size
        self.__dict__.update(fields)
        self._names = list(fields)

    def __len__(self) -> int:
        return len(getattr(self, self._names[0]))

    def __getitem__(self, rows: Tensor) -> Instances:
        values = {name: getattr(self, name) for name in self._names}
        cut = {
            n: Boxes(v.tensor[rows]) if isinstance(v, Boxes) else v[rows] for n, v in values.items()
        }
        return Instances(self.image_size, **cut)


class Matcher:
    def __init__(
        self, thresholds: list[float], labels: list[int], allow_low_quality_matches: bool = False
    ) -> None:
        self.thresholds = [-math.inf, *thresholds, math.inf]
        self.labels, self.allow_low_quality_matches = labels, allow_low_quality_matches

    def __call__(self, quality: Tensor) -> tuple[Tensor, Tensor]:
        """Of [gt, anchors]: the row of each anchor's best box, and a label by its IoU."""
        if quality.numel() == 0:
            rows = torch.zeros(quality.shape[1], dtype=torch.int64)
            return rows, torch.full_like(rows, self.labels[0], dtype=torch.int8)
        best, rows = quality.max(dim=0)
        level = torch.bucketize(best, torch.tensor(self.thresholds[1:-1]), right=True)
        labels = torch.tensor(self.labels, dtype=torch.int8)[level]
        if self.allow_low_quality_matches:
            self.set_low_quality_matches_(labels, quality)
        return rows, labels

    def set_low_quality_matches_(self, labels: Tensor, quality: Tensor) -> None:
        labels[(quality == quality.max(dim=1, keepdim=True).values).any(dim=0)] = 1


class Box2BoxTransform:
    def __init__(self, weights: tuple[float, ...]) -> None:
        self.weights = weights

    def get_deltas(self, anchors: Tensor, boxes: Tensor) -> Tensor:
        size, wanted = anchors[:, 2:] - anchors[:, :2], boxes[:, 2:] - boxes[:, :2]
        shift = boxes[:, :2] + wanted / 2 - (anchors[:, :2] + size / 2)
        return torch.cat([shift / size, (wanted / size).log()], dim=1) * torch.tensor(self.weights)

    def apply_deltas(self, deltas: Tensor, anchors: Tensor) -> Tensor:
        deltas = deltas / torch.tensor(self.weights)
        size = anchors[:, 2:] - anchors[:, :2]
        center = anchors[:, :2] + size / 2 + deltas[:, :2] * size
        half = deltas[:, 2:].clamp(max=math.log(1000 / 16)).exp() * size / 2
        return torch.cat([center - half, center + half], dim=1)


class DefaultAnchorGenerator(nn.Module):
    def __init__(
        self,
        *,
        sizes: list[list[float]],
        aspect_ratios: list[float],
        strides: list[int],
        offset: float = 0.5,
    ) -> None:
        super().__init__()
        self.strides, self.offset = strides, offset
        self.cell_anchors = [
            torch.tensor(
                [
                    [-w / 2, -w * ratio / 2, w / 2, w * ratio / 2]
                    for size in level
                    for ratio in aspect_ratios
                    for w in [math.sqrt(size**2 / ratio)]
                ]
            )
            for level in sizes
        ]

    def forward(self, features: list[Tensor]) -> list[Boxes]:
        found = []
        for level, stride, cells in zip(features, self.strides, self.cell_anchors, strict=True):
            height, width = level.shape[-2:]
            y, x = torch.meshgrid(
                (torch.arange(height) + self.offset) * stride,
                (torch.arange(width) + self.offset) * stride,
                indexing="ij",
            )
            shift = torch.stack([x, y, x, y], dim=-1).reshape(-1, 1, 4)
            found.append(Boxes((shift + cells).reshape(-1, 4)))
        return found


def permuted(maps: list[Tensor], columns: int) -> list[Tensor]:
    """[N, A * columns, H, W] to [N, H * W * A, columns], by level."""
    return [m.unflatten(1, (-1, columns)).permute(0, 3, 4, 1, 2).flatten(1, 3) for m in maps]


class RetinaNet(nn.Module):
    """From `forward_training` and `forward_inference` on, as of detectron2's DenseDetector."""

    def __init__(
        self,
        *,
        anchor_generator: nn.Module,
        box2box_transform: Box2BoxTransform,
        anchor_matcher: Matcher,
        num_classes: int,
        focal_loss_alpha: float = 0.25,
        focal_loss_gamma: float = 2.0,
        smooth_l1_beta: float = 0.0,
        box_reg_loss_type: str = "smooth_l1",
        test_score_thresh: float = 0.05,
        test_topk_candidates: int = 1000,
        test_nms_thresh: float = 0.5,
        max_detections_per_image: int = 100,
        **_: Any,  # backbone, head and images
    ) -> None:
        super().__init__()
        self.anchor_generator, self.box2box_transform = anchor_generator, box2box_transform
        self.anchor_matcher, self.num_classes = anchor_matcher, num_classes
        self.focal_loss_alpha, self.focal_loss_gamma = focal_loss_alpha, focal_loss_gamma
        self.smooth_l1_beta, self.box_reg_loss_type = smooth_l1_beta, box_reg_loss_type
        self.test_score_thresh, self.test_nms_thresh = test_score_thresh, test_nms_thresh
        self.test_topk_candidates = test_topk_candidates
        self.max_detections_per_image = max_detections_per_image

    def forward_training(
        self, images: Any, features: list[Tensor], predictions: Any, gt_instances: list[Instances]
    ) -> dict[str, Tensor]:
        logits, deltas = (
            permuted(maps, n) for maps, n in zip(predictions, (self.num_classes, 4), strict=True)
        )
        anchors = self.anchor_generator(features)
        return self.losses(anchors, logits, *self.label_anchors(anchors, gt_instances), deltas)

    def losses(
        self,
        anchors: list[Boxes],
        logits: list[Tensor],
        gt_labels: list[Tensor],
        gt_boxes: list[Tensor],
        deltas: list[Tensor],
    ) -> dict[str, Tensor]:
        labels, boxes = torch.stack(gt_labels), torch.stack(gt_boxes)
        known, positive = labels >= 0, (labels >= 0) & (labels < self.num_classes)
        STORAGE["num_pos_anchors"] = int(positive.sum()) / len(gt_labels)
        normalizer = self._ema_update("loss_normalizer", max(int(positive.sum()), 1), 100)
        one_hot = F.one_hot(labels[known], self.num_classes + 1)[:, :-1].float()
        settings = self.focal_loss_alpha, self.focal_loss_gamma
        classification = sigmoid_focal_loss(
            torch.cat(logits, dim=1)[known], one_hot, *settings, reduction="sum"
        )
        table = torch.cat([level.tensor for level in anchors]).expand_as(boxes)[positive]
        predicted = torch.cat(deltas, dim=1)[positive]
        if self.box_reg_loss_type == "giou":
            decoded = self.box2box_transform.apply_deltas(predicted, table)
            regression = generalized_box_iou_loss(decoded, boxes[positive], reduction="sum")
        else:
            wanted = self.box2box_transform.get_deltas(table, boxes[positive])
            regression = F.smooth_l1_loss(
                predicted, wanted, reduction="sum", beta=self.smooth_l1_beta
            )
        return {"loss_cls": classification / normalizer, "loss_box_reg": regression / normalizer}

    def label_anchors(
        self, anchors: list[Boxes], gt_instances: list[Instances]
    ) -> tuple[list[Tensor], list[Tensor]]:
        table, gt_labels, gt_boxes = torch.cat([level.tensor for level in anchors]), [], []
        for each in gt_instances:
            rows, kinds = self.anchor_matcher(box_iou(each.gt_boxes.tensor, table))
            classes = torch.cat([each.gt_classes, torch.zeros(1, dtype=torch.int64)])
            boxes = torch.cat([each.gt_boxes.tensor, torch.zeros(1, 4)])
            labels = torch.where(kinds == 1, classes[rows], -1)
            gt_labels.append(torch.where(kinds == 0, self.num_classes, labels))
            gt_boxes.append(boxes[rows])
        return gt_labels, gt_boxes

    def forward_inference(
        self, images: Any, features: list[Tensor], predictions: Any
    ) -> list[Instances]:
        logits, deltas = (
            permuted(maps, n) for maps, n in zip(predictions, (self.num_classes, 4), strict=True)
        )
        anchors = self.anchor_generator(features)
        return [
            self.inference_single_image(
                anchors, [x[i].sigmoid() for x in logits], [x[i] for x in deltas], image_size
            )
            for i, image_size in enumerate(images.image_sizes)
        ]

    def inference_single_image(
        self, anchors: Any, box_cls: Any, box_delta: Any, image_size: tuple[int, int]
    ) -> Instances:
        settings = self.test_score_thresh, self.test_topk_candidates, image_size
        found = self._decode_multi_level_predictions(anchors, box_cls, box_delta, *settings)
        boxes, scores, classes = found.pred_boxes.tensor, found.scores, found.pred_classes
        keep = coordinate_nms(boxes, scores, classes, self.test_nms_thresh)
        return found[keep[: self.max_detections_per_image]]

    def _decode_multi_level_predictions(
        self,
        anchors: list[Boxes],
        scores: list[Tensor],
        deltas: list[Tensor],
        threshold: float,
        topk: int,
        image_size: tuple[int, int],
    ) -> Instances:
        parts = []
        for level, score, delta in zip(anchors, scores, deltas, strict=True):
            best, flat = score.flatten().topk(min(topk, int((score > threshold).sum())))
            row = flat // self.num_classes
            boxes = self.box2box_transform.apply_deltas(delta[row], level.tensor[row])
            parts.append((boxes, best, flat % self.num_classes))
        boxes, best, classes = (torch.cat(part) for part in zip(*parts, strict=True))
        return Instances(image_size, pred_boxes=Boxes(boxes), scores=best, pred_classes=classes)

    def _ema_update(
        self, name: str, value: float, initial_value: float, momentum: float = 0.9
    ) -> float:
        new = getattr(self, name, initial_value) * momentum + value * (1 - momentum)
        setattr(self, name, new)
        return new


def batched_nms(boxes: Tensor, scores: Tensor, idxs: Tensor, iou_threshold: float) -> Tensor:
    return coordinate_nms(boxes.float(), scores, idxs, iou_threshold)


def fvcore_loss(
    inputs: Tensor, targets: Tensor, alpha: float = -1, gamma: float = 2, reduction: str = "none"
) -> Tensor:
    return sigmoid_focal_loss(inputs.float(), targets.float(), alpha, gamma, reduction)


def module(monkeypatch: pytest.MonkeyPatch, path: str, **members: Any) -> None:
    parts = path.split(".")
    for i in range(1, len(parts)):
        name = ".".join(parts[:i])
        if name not in sys.modules:
            monkeypatch.setitem(sys.modules, name, ModuleType(name))
    found = ModuleType(path)
    found.__dict__.update(members)
    monkeypatch.setitem(sys.modules, path, found)


def install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Puts the stand-ins where the recipe imports from; of fvcore, only if it is not installed."""
    STORAGE.clear()

    def register() -> Any:
        return lambda cls: REGISTRY.setdefault(cls.__name__, cls)

    try:
        from fvcore.nn import sigmoid_focal_loss_jit
    except ModuleNotFoundError:
        sigmoid_focal_loss_jit = fvcore_loss
        losses = {"sigmoid_focal_loss": fvcore_loss, "sigmoid_focal_loss_jit": fvcore_loss}
        module(monkeypatch, "fvcore.nn", **losses)
    functions = {"batched_nms": batched_nms, "sigmoid_focal_loss_jit": sigmoid_focal_loss_jit}
    storage = SimpleNamespace(put_scalar=STORAGE.__setitem__)
    registry = SimpleNamespace(register=register)
    module(monkeypatch, "detectron2.layers", batched_nms=batched_nms)
    module(monkeypatch, "detectron2.modeling", META_ARCH_REGISTRY=registry)
    module(monkeypatch, "detectron2.modeling.meta_arch")
    module(monkeypatch, "detectron2.modeling.meta_arch.retinanet", RetinaNet=RetinaNet, **functions)
    sys.modules["detectron2.modeling.meta_arch"].retinanet = sys.modules[
        "detectron2.modeling.meta_arch.retinanet"
    ]
    module(monkeypatch, "detectron2.utils.events", get_event_storage=lambda: storage)
