"""An FCOS-like detector (Tian et al. 2019) by hand, on `sigmoid_focal_loss` and `nms_padded`.

For whom: who writes a dense head. The assignment gives int64 labels by location, which go into the
loss as they are: no one-hot targets. Boxes and scores of a batch go into NMS as they are: no loop
over images, and shapes that do not depend on the values, so that training and detection compile
with fullgraph=True and never wait for a GPU. What it saves: see the operators' documentation.

One level of stride 8, no centre-ness; a location belongs to the smallest box that it lies in, near
its middle. `python examples/fcos_head.py` trains on generated scenes for a minute, and detects.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
from torch import Tensor, nn

from focaldet import ops
from focaldet.data import Batches, CocoDataset, generate_scenes, train_transform

STRIDE, RADIUS = 8, 1.5  # pixels; in strides, how far from a box's middle its locations lie
SIZE = 128  # pixels, the side of a generated scene
IGNORED, BACKGROUND = -2, -1  # labels of sigmoid_focal_loss


class FCOS(nn.Module):
    """Images [B, 3, H, W] to logits [B, N, K] and boxes [B, N, 4] of N = H * W / 64 locations."""

    def __init__(self, classes: int, width: int = 48) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for channels, stride in ((3, 2), (width, 2), (width, 2), (width, 1), (width, 1)):
            layers += [nn.Conv2d(channels, width, 3, stride, 1), nn.GroupNorm(8, width), nn.ReLU()]
        self.body = nn.Sequential(*layers)
        self.logits = nn.Conv2d(width, classes, 3, padding=1)
        self.distances = nn.Conv2d(width, 4, 3, padding=1)  # logarithms, to the sides of a box
        nn.init.constant_(self.logits.bias, -4.6)  # a prior of 0.01, as the focal loss wants it

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        features = self.body(images)
        logits = self.logits(features).flatten(2).transpose(1, 2)
        distances = self.distances(features).flatten(2).transpose(1, 2).clamp(max=5).exp() * STRIDE
        center = locations(features)
        return logits, torch.cat([center - distances[..., :2], center + distances[..., 2:]], dim=2)


def locations(features: Tensor) -> Tensor:
    """[N, 2], x and y in pixels: the middle of each cell."""
    height, width = features.shape[-2:]
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return (torch.stack([x, y], dim=2).view(-1, 2).to(features) + 0.5) * STRIDE


def assign(center: Tensor, gt_boxes: Tensor, gt_labels: Tensor) -> tuple[Tensor, Tensor]:
    """Labels [B, N] and boxes [B, N, 4] of the locations, from [B, T, 4] and [B, T]; rows of zeros
    pad them."""
    low, high = gt_boxes[:, None].chunk(2, dim=3)  # [B, 1, T, 2]
    inside = ((center[:, None] > low) & (center[:, None] < high)).all(dim=3)
    near = ((center[:, None] - (low + high) / 2).abs() < RADIUS * STRIDE).all(dim=3)
    area = (high - low).prod(dim=3)
    smallest, row = torch.where(inside & near, area, torch.inf).min(dim=2)  # [B, N]
    label = torch.where(inside.any(dim=2), IGNORED, BACKGROUND)  # off the middle: neither
    label = torch.where(smallest < torch.inf, gt_labels.gather(1, row), label)
    return label, gt_boxes.gather(1, row[..., None].expand(-1, -1, 4))


def loss(model: FCOS, images: Tensor, gt_boxes: Tensor, gt_labels: Tensor) -> Tensor:
    """Focal loss of all locations, and 1 - IoU of the foreground, by foreground location."""
    logits, boxes = model(images)
    labels, wanted = assign(locations(images[..., ::STRIDE, ::STRIDE]), gt_boxes, gt_labels)
    foreground = labels >= 0
    low, high = torch.maximum(boxes, wanted)[..., :2], torch.minimum(boxes, wanted)[..., 2:]
    inter = (high - low).clamp(min=0).prod(dim=2)
    area, wanted_area = ((box[..., 2:] - box[..., :2]).prod(dim=2) for box in (boxes, wanted))
    iou = inter / (area + wanted_area - inter)
    classification = ops.sigmoid_focal_loss(logits, labels, reduction="sum")
    regression = torch.where(foreground, 1 - iou, 0).sum()
    return (classification + regression) / foreground.sum().clamp(min=1)


@torch.no_grad()
def detect(
    model: FCOS, images: Tensor, score_threshold: float = 0.3, iou_threshold: float = 0.5
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Boxes [B, 100, 4], scores and labels [B, 100], and counts [B]: what is past them is none."""
    logits, boxes = model(images)
    scores, labels = logits.sigmoid().max(dim=2)
    kept, counts = ops.nms_padded(boxes, scores, labels, iou_threshold, score_threshold)
    row = kept.clamp(min=0)
    boxes = boxes.gather(1, row[..., None].expand(-1, -1, 4))
    return boxes, scores.gather(1, row), labels.gather(1, row), counts


def padded(targets: list[dict[str, Tensor]], rows: int = 64) -> tuple[Tensor, Tensor]:
    """Boxes [B, rows, 4] and labels [B, rows], padded with zeros."""
    boxes, labels = torch.zeros(len(targets), rows, 4), torch.zeros(len(targets), rows).long()
    for i, target in enumerate(targets):
        boxes[i, : len(target["boxes"])] = target["boxes"]
        labels[i, : len(target["labels"])] = target["labels"]
    return boxes, labels


def scenes(folder: Path, images: int, seed: int) -> CocoDataset:
    """Generated pictures of a few discs, squares and triangles."""
    shape = {"size": SIZE, "objects": (5, 12), "object_size": (16, 40)}
    annotations = generate_scenes(folder, images=images, seed=seed, **shape)
    return CocoDataset(annotations, folder / "images", transform=train_transform(SIZE))


def train(data: CocoDataset, steps: int, batch: int = 8) -> tuple[FCOS, list[float]]:
    """A detector, and its losses, step by step."""
    batches, model, losses = Batches(data, batch, shuffle=True), FCOS(data.num_classes), []
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    while len(losses) < steps:
        for images, targets in batches.epoch(len(losses) // len(batches)):
            step_loss = loss(model, torch.stack(images), *padded(targets))
            optimizer.zero_grad()
            step_loss.backward()
            optimizer.step()
            losses.append(step_loss.item())
    return model, losses


def main() -> None:
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        model, losses = train(scenes(Path(folder, "train"), images=128, seed=0), steps=320)
        images, targets = zip(*scenes(Path(folder, "new"), images=8, seed=1), strict=True)
    found, _, labels, counts = detect(model.eval(), torch.stack(images))
    hits = 0
    for target, boxes, label, n in zip(targets, found, labels, counts.tolist(), strict=True):
        same = target["labels"][:, None] == label[:n]
        hits += int(((ops.box_iou(target["boxes"], boxes[:n]) > 0.5) & same).any(dim=1).sum())
    print(f"loss: {losses[0]:.2f} at first, {sum(losses[-16:]) / 16:.2f} at last")
    objects = sum(len(target["labels"]) for target in targets)
    print(f"found {hits} of {objects} objects in 8 new pictures with {int(counts.sum())} boxes")


if __name__ == "__main__":
    main()
