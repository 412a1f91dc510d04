"""Detection data sets: readers, transforms, batches and generated scenes. Knows no model.

dataset = CocoDataset("instances.json", "images", transform=train_transform(320))
for images, targets in Batches(dataset, batch_size=8, workers=2, shuffle=True).epoch(0):
    losses = model(images, targets)
"""

from .cache import CacheWarning
from .coco import CocoDataset
from .dataset import DetectionDataset, SkippedImageWarning, Target
from .images import ImageError, read_image
from .loader import Batches, collate
from .scenes import generate_scenes
from .table import SkippedBoxWarning, Table
from .transforms import (
    Compose,
    HorizontalFlip,
    RandomCrop,
    RandomResize,
    Resize,
    ToTensor,
    VerticalFlip,
    eval_transform,
    train_transform,
)
from .voc import VocDataset
from .workers import WorkerWarning
from .yolo import YoloDataset

__all__ = [
    "Batches",
    "CacheWarning",
    "CocoDataset",
    "Compose",
    "DetectionDataset",
    "HorizontalFlip",
    "ImageError",
    "RandomCrop",
    "RandomResize",
    "Resize",
    "SkippedBoxWarning",
    "SkippedImageWarning",
    "Table",
    "Target",
    "ToTensor",
    "VerticalFlip",
    "VocDataset",
    "WorkerWarning",
    "YoloDataset",
    "collate",
    "eval_transform",
    "generate_scenes",
    "read_image",
    "train_transform",
]
