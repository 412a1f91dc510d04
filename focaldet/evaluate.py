"""COCO scores by pycocotools: of a detection file, or of a model over a data set."""

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from tqdm import tqdm

from .data import Batches, DetectionDataset
from .detect import coco_records, detect_batch
from .distributed import ALONE, Ranks
from .errors import UserError
from .models import RetinaNet, for_inference

# COCOeval.stats, in order: average precision and recall, at IoU .50:.95 unless named, 100 boxes an
# image unless named; s, m, l: areas up to 32^2, up to 96^2, and above.
STATS = (
    "AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl",
)  # fmt: skip

Scores = dict[str, Any]


class Stopped(Exception):
    """An evaluation was asked to end early."""


def evaluate_model(
    model: RetinaNet,
    dataset: DetectionDataset,
    category_ids: Sequence[int] | None = None,
    batch_size: int = 8,
    workers: int = 0,
    *,
    ranks: Ranks = ALONE,
    stop: Callable[[], bool] = lambda: False,
) -> Scores:
    """Scores a model, left in eval mode, on a data set whose transform is an `eval_transform`.

    `category_ids`: the category in the data set of each of the model's labels; the data set's own
    order unless given. `ranks` divide the images among them, each image to one; every rank gets the
    scores. Raises `Stopped` if `stop` says so, on any of them, before all images are seen.
    """
    model = for_inference(model.eval())
    category_ids = category_ids or dataset.category_ids
    detections = []
    batches = Batches(dataset, batch_size, workers=workers, rank=ranks.rank, world=ranks.world)
    with tqdm(
        total=-(-len(dataset) // ranks.world),
        desc="evaluate",
        unit=" images",
        leave=False,
        disable=None if ranks.main else True,
    ) as bar:
        for number, (images, targets) in enumerate(batches):
            if stop():
                break
            ranks.at(number, "evaluating")
            sizes = [target["original_size"] for target in targets]
            for target, found in zip(targets, detect_batch(model, images, sizes), strict=True):
                detections += [
                    {"image_id": target["image_id"], **record}
                    for record in coco_records(found, category_ids)
                ]
            bar.update(len(images))
    if ranks.sum(torch.tensor(stop(), dtype=torch.int64, device=ranks.device)).item():
        raise Stopped
    everyone = ranks.gather(_columns(detections))
    return ranks.first(lambda: evaluate_detections(dataset.to_coco(), _records(everyone or [])))


def match_categories(
    class_names: Sequence[str], dataset: DetectionDataset, weights: str | Path
) -> list[int]:
    """The category id in the data set of each class of a checkpoint, by name."""
    if sorted(class_names) != sorted(dataset.class_names):
        raise UserError(
            f"{weights}: a checkpoint for the classes {', '.join(class_names)}; the data set has "
            f"{', '.join(dataset.class_names)}; expected the same names"
        )
    ids = dict(zip(dataset.class_names, dataset.category_ids, strict=True))
    return [ids[name] for name in class_names]


def evaluate_detections(
    ground_truth: Mapping[str, Any],
    detections: Sequence[Mapping[str, Any]],
    source: str = "detections",
) -> Scores:
    """Scores detections in COCO's results form against COCO annotations, as pycocotools does.

    Returns `{"tool": ..., "stats": {the 12 of STATS}, "per_class_AP": {category id: AP}}`, with -1
    where there is no ground truth to score. Annotations are numbered anew, because pycocotools
    takes a match with annotation id 0 for no match. Raises `UserError` for a detection of an
    unknown image or category, or with an ill-formed box or score; `source` is its name for them.
    """
    check_detections(ground_truth, detections, source)
    truth = _index(ground_truth, ground_truth["annotations"])
    found = _index(ground_truth, detections)
    with contextlib.redirect_stdout(io.StringIO()):  # its progress, and a table of its own
        scoring = COCOeval(truth, found, "bbox")
        scoring.evaluate()
        scoring.accumulate()
        scoring.summarize()
    precision = scoring.eval["precision"]  # [IoU, recall, category, area, max detections]
    per_class = {}
    for k, category in enumerate(scoring.params.catIds):
        values = precision[:, :, k, 0, -1]
        values = values[values > -1]
        per_class[str(category)] = float(values.mean()) if values.size else -1.0
    return {
        "tool": f"pycocotools {version('pycocotools')}",
        "stats": dict(zip(STATS, map(float, scoring.stats), strict=True)),
        "per_class_AP": per_class,
    }


def check_detections(
    ground_truth: Mapping[str, Any],
    detections: Sequence[Mapping[str, Any]],
    source: str = "detections",
) -> None:
    """Raises `UserError` naming the first detection, of those in `source`, not fit to score."""
    if not isinstance(detections, Sequence) or isinstance(detections, str):
        raise UserError(
            f"{source}: expected a JSON list of objects with image_id, category_id, bbox "
            f"[x, y, width, height] and score; got {type(detections).__name__}"
        )
    images = {image["id"] for image in ground_truth["images"]}
    categories = {category["id"] for category in ground_truth["categories"]}
    for number, detection in enumerate(detections):
        where = f"{source}: detection {number}"
        if not isinstance(detection, Mapping):
            raise UserError(f"{where}: expected an object, got {type(detection).__name__}")
        for key in ("image_id", "category_id", "bbox", "score"):
            if key not in detection:
                raise UserError(
                    f"{where}: has no {key}; expected image_id, category_id, bbox and score"
                )
        if not _known(detection["image_id"], images):
            raise UserError(
                f"{where}: image_id {detection['image_id']!r} is not an image of the ground truth; "
                "--data is the file that the detections were made for"
            )
        if not _known(detection["category_id"], categories):
            raise UserError(
                f"{where}: category_id {detection['category_id']!r} is not a category of the "
                "ground truth; --data is the file that the detections were made for"
            )
        box, score = detection["bbox"], detection["score"]
        if not (isinstance(box, list) and len(box) == 4 and all(map(_finite, box))):
            raise UserError(
                f"{where}: bbox {box!r}; expected four finite numbers [x, y, width, height]"
            )
        if box[2] < 0 or box[3] < 0:
            raise UserError(f"{where}: bbox {box!r}; expected [x, y, width, height], not corners")
        if not _finite(score):
            raise UserError(f"{where}: score {score!r}; expected a finite number")


def table(scores: Scores, names: Mapping[str, str]) -> str:
    """The twelve numbers and the AP of each class, by falling AP, as lines of text.

    `names`: class name by category id (as a string, like the keys of `per_class_AP`).
    """
    width = max([len("class"), *(len(name) for name in names.values())])
    stats = [f"{name:<{width}}  {value:.3f}" for name, value in scores["stats"].items()]
    classes = [
        f"{names.get(key, key):<{width}}  " + (f"{value:.3f}" if value >= 0 else "no boxes")
        for key, value in sorted(scores["per_class_AP"].items(), key=lambda item: -item[1])
    ]
    return "\n".join([*stats, "", f"{'class':<{width}}  AP", *classes])


def _index(ground_truth: Mapping[str, Any], boxes: Sequence[Mapping[str, Any]]) -> COCO:
    """The boxes, numbered from 1, as pycocotools has them; what they lack is filled in."""
    index = COCO()
    index.dataset = {
        "images": list(ground_truth["images"]),
        "categories": list(ground_truth["categories"]),
        "annotations": [
            {"area": box["bbox"][2] * box["bbox"][3], "iscrowd": 0, **box, "id": number}
            for number, box in enumerate(boxes, start=1)
        ],
    }
    with contextlib.redirect_stdout(io.StringIO()):
        index.createIndex()
    return index


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _known(value: Any, ids: set[Any]) -> bool:
    return isinstance(value, int | str) and value in ids


def _columns(detections: Sequence[Mapping[str, Any]]) -> dict[str, np.ndarray]:
    return {
        "image_id": np.array([d["image_id"] for d in detections], np.int64),
        "category_id": np.array([d["category_id"] for d in detections], np.int64),
        "bbox": np.array([d["bbox"] for d in detections], np.float64).reshape(-1, 4),
        "score": np.array([d["score"] for d in detections], np.float64),
    }


def _records(everyone: Sequence[Mapping[str, np.ndarray]]) -> list[dict[str, Any]]:
    return [
        dict(zip(columns, values, strict=True))
        for columns in everyone
        for values in zip(*(column.tolist() for column in columns.values()), strict=True)
    ]
