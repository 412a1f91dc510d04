"""Uses of the public API that a type checker must accept: read by mypy, never run."""

from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor

from focaldet import AnchorGrid, Anchors, ops, torch_ops
from focaldet.data import Batches, CocoDataset, Target, eval_transform
from focaldet.models import V2, Detection, GroundTruth, LossDict, RetinaNet, for_inference
from focaldet.ops.choices import LowQuality, Reduction
from focaldet.train import Recipe, train

reduction: Reduction = "mean"
loss: Tensor = ops.sigmoid_focal_loss(torch.zeros(3, 2), torch.zeros(3, 2), reduction=reduction)
weighted: Tensor = ops.sigmoid_focal_loss(
    torch.zeros(3, 2), torch.zeros(3, dtype=torch.int64), torch.ones(2), class_weight=torch.ones(2)
)
grid: AnchorGrid = AnchorGrid.torchvision(sizes=[16, 32, 64, 128, 256])
anchors: Anchors = grid.at([(4, 4), (2, 2), (1, 1), (1, 1), (1, 1)], (32, 32))
boxes, splits = torch.zeros(0, 4), torch.zeros(1, dtype=torch.int64)
for rule in cast("list[LowQuality]", ["torchvision", "mmdet", "none"]):
    matches: Tensor = ops.match_anchors(anchors, boxes, splits, low_quality=rule)
of_a_tensor: Tensor = ops.match_anchors(torch.zeros(5, 4), boxes, splits)
keep, count = ops.nms_padded(torch.zeros(1, 5, 4), torch.zeros(1, 5), None, 0.5)
classification, box_regression, n_foreground = ops.retinanet_loss(
    [torch.zeros(1, 2, 4, 4)],
    (torch.zeros(1, 4, 4, 4),),
    anchors,
    boxes,
    splits,
    splits,
    box_loss="giou",
    normalizer=torch.tensor(3.0),
    mode="recompute",
)
raw: Tensor = torch_ops.nms(boxes, torch.zeros(0), 0.5)

model: RetinaNet = RetinaNet(3, "resnet18", loss="ohem", anchor_grid=grid)
second = RetinaNet(3, **V2)
plain = [{"boxes": boxes, "labels": splits}]  # dict[str, Tensor], as for torchvision
typed: list[GroundTruth] = [{"boxes": boxes, "labels": splits}]
losses = cast(LossDict, model.forward([torch.zeros(3, 8, 8)], plain))
total: Tensor = losses["classification"] + losses["bbox_regression"]
for targets in (plain, typed):
    model.forward([torch.zeros(3, 8, 8)], targets)
found = cast("list[Detection]", for_inference(model)([torch.zeros(3, 8, 8)]))
scores: Tensor = found[0]["scores"]
anything: Mapping[str, object] = found[0]

dataset = CocoDataset("train.json", "images", transform=eval_transform(320))
image, target = dataset[0]
size: tuple[int, int] = target["original_size"]
for images, batch in Batches(dataset, 2):
    target_of_batch: Target = batch[0]
    model.forward(images, batch)
ap: float = train(model, dataset, dataset, "run", Recipe(epochs=1))["stats"]["AP"]
