"""All that is known of a detector on one image: what the sections of a page are made of."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from PIL.Image import Image
from torch import Tensor

from ..anatomy import Anatomy, anatomy
from ..data import eval_transform
from ..detect import SIZES
from ..models import Detection, RetinaNet
from ..models.transform import GroundTruth
from ..ops import nms_match


@dataclass(frozen=True)
class Candidates:
    """The boxes that go into NMS, by falling score: of each level the best above the threshold."""

    boxes: Tensor  # [C, 4] in pixels of the picture
    scores: Tensor  # [C]
    labels: Tensor  # int64 [C]
    keep: Tensor  # int64 [k]: the rows that NMS keeps, by falling score
    match: Tensor  # int64 [C]: the kept row that suppressed each; of a kept row itself


@dataclass(frozen=True)
class Look:
    """Tensors are on the CPU, boxes in pixels of the picture."""

    name: str  # of the image
    weights: str  # the file of the checkpoint
    class_names: list[str]
    picture: Image
    target: GroundTruth | None
    crowd: GroundTruth | None  # regions where a detection of the class is neither true nor false
    anatomy: Anatomy  # in pixels of the picture
    candidates: Candidates
    threshold: float  # the least score of a detection
    least: float  # the least score of a candidate
    nms_iou: float
    limit: int  # detections an image
    fg_iou: float
    finest_level: int  # 3 where the first level is P3

    def level_name(self, level: int | Tensor) -> str:
        return f"P{int(level) + self.finest_level}"

    @property
    def detections(self) -> Detection:
        """What `focaldet detect` finds with this threshold: the first of `scored`."""
        count = int((self.scored["scores"] > torch.tensor(self.threshold)).sum())
        found = self.scored
        return {
            "boxes": found["boxes"][:count],
            "scores": found["scores"][:count],
            "labels": found["labels"][:count],
        }

    @property
    def scored(self) -> Detection:
        """The detections above the candidates' threshold, by falling score: what is evaluated."""
        rows = self.candidates.keep[: self.limit]
        found = self.candidates
        return {
            "boxes": found.boxes[rows],
            "scores": found.scores[rows],
            "labels": found.labels[rows],
        }


@torch.inference_mode()
def look(
    model: RetinaNet,
    picture: Image,
    target: GroundTruth | None,  # in pixels of the picture, on the CPU
    threshold: float,
    *,
    crowd: GroundTruth | None = None,
    name: str,
    weights: str,
    class_names: list[str],
) -> Look:
    """Runs a model, in eval mode, on a picture as `focaldet detect` does.

    Scores fall in NMS, so that detections above one threshold are the first of those above a lower
    one: candidates are taken above the model's own `score_thresh`, where that is lower, for they
    tell why an object was missed.
    """
    boxes = torch.zeros(0, 4) if target is None else target["boxes"]
    transform = eval_transform(*(model.config[size] for size in SIZES))
    image, boxes = transform(picture, boxes, torch.Generator())
    height, width = image.shape[-2:]
    ratio = torch.tensor([picture.width / width, picture.height / height]).repeat(2)
    image = image.to(next(model.parameters()).device)
    resized = None if target is None else {"boxes": boxes, "labels": target["labels"]}
    least = min(model.score_thresh, threshold)
    return Look(
        name=name,
        weights=weights,
        class_names=class_names,
        picture=picture,
        target=target,
        crowd=crowd,
        anatomy=anatomy(model, image, resized, model.transform.repeatable).times(ratio),
        candidates=_candidates(model, image, ratio, least),
        threshold=threshold,
        least=least,
        nms_iou=model.nms_thresh,
        limit=model.detections_per_img,
        fg_iou=model.config["fg_iou_thresh"],
        finest_level=model.config["finest_level"],
    )


def _candidates(model: RetinaNet, image: Tensor, ratio: Tensor, least: float) -> Candidates:
    """Those of the model itself, with a threshold of NMS that no IoU exceeds."""
    every = copy.copy(model)  # of the settings alone
    every.score_thresh, every.nms_thresh = least, 1.0
    every.detections_per_img = model.topk_candidates * len(model.anchor_grid.cell_anchors)
    batch, sizes, scales = every.transform.images([image], resize=model.transform.repeatable)
    found = every.detect(batch, sizes)
    count = int(found.counts[0])
    boxes, scores, labels = found.boxes[0, :count], found.scores[0, :count], found.labels[0, :count]
    keep, match = nms_match(boxes, scores, model.nms_thresh, labels)
    return Candidates(
        (boxes / scales[0]).cpu() * ratio, scores.cpu(), labels.cpu(), keep.cpu(), match.cpu()
    )
