"""COCO scores of a model over a data set."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from tqdm import tqdm

from .data import Batches, DetectionDataset, Table
from .detect import detect_batch
from .distributed import ALONE, Ranks
from .errors import UserError
from .found import Found
from .models import RetinaNet, for_inference
from .scoring import (
    MAX_DETECTIONS,
    STATS,
    Scores,
    check_evaluator,
    evaluate_detections,
    table,
    up_to,
)

__all__ = [
    "STATS",
    "Scores",
    "Stopped",
    "detect_dataset",
    "evaluate_detections",
    "evaluate_model",
    "match_categories",
    "table",
]


class Stopped(Exception):
    """An evaluation was asked to end early."""


def evaluate_model(
    model: RetinaNet,
    dataset: DetectionDataset,
    category_ids: Sequence[int] | None = None,
    batch_size: int = 8,
    workers: int = 0,
    evaluator: str = "pycocotools",
    *,
    max_detections: int = MAX_DETECTIONS[-1],
    ranks: Ranks = ALONE,
    stop: Callable[[], bool] = lambda: False,
) -> Scores:
    """Scores a model, left in eval mode, on a data set whose transform is an `eval_transform`.

    `category_ids`: the category in the data set of each of the model's labels; the data set's own
    order unless given. `evaluator`: see `evaluate_detections`. `max_detections`: boxes of an image
    that are scored. `ranks` divide the images of each batch among them, every image goes to one of
    them, and all get the scores. Raises `Stopped` where `stop` says so, on any of them, before the
    last image.
    """
    check_evaluator(evaluator)  # before the model runs
    found = detect_dataset(
        model, dataset, category_ids, batch_size, workers, ranks=ranks, stop=stop
    )
    return ranks.first(
        lambda: evaluate_detections(
            dataset.to_coco(), found, evaluator=evaluator, max_detections=up_to(max_detections)
        )
    )


def detect_dataset(
    model: RetinaNet,
    dataset: DetectionDataset,
    category_ids: Sequence[int] | None = None,
    batch_size: int = 8,
    workers: int = 0,
    *,
    ranks: Ranks = ALONE,
    stop: Callable[[], bool] = lambda: False,
) -> Found:
    """What the model, left in eval mode, finds on a data set: on rank 0 all of it, elsewhere that
    rank's share. Arguments and `Stopped`: see `evaluate_model`."""
    model = for_inference(model.eval())
    category_ids = category_ids or dataset.category_ids
    parts = []
    batches = Batches(dataset, batch_size, workers=workers, rank=ranks.rank, world=ranks.world)
    with tqdm(
        total=-(-len(dataset) // ranks.world),
        desc="evaluate",
        unit=" images",
        leave=False,
        disable=None if ranks.main else True,
    ) as bar:
        number = 0
        for number, (images, targets) in enumerate(batches, start=1):
            if stop():
                break
            ranks.at(None, f"evaluating, batch {number}")
            sizes = [target["original_size"] for target in targets]
            for target, detection in zip(targets, detect_batch(model, images, sizes), strict=True):
                parts.append(Found.on_image(target["image_id"], detection, category_ids))
            bar.update(len(images))
    for later in range(number + 1, len(batches) + 1):  # of batches too small for a share
        ranks.at(None, f"evaluating, batch {later}")
    ranks.at(None, "evaluated")
    if ranks.sum(torch.tensor(int(stop()), device=ranks.device)).item():
        raise Stopped
    own = Found.concatenate(parts)
    everyone = ranks.gather(vars(own))
    return Found.concatenate([Found(**columns) for columns in everyone]) if everyone else own


def match_categories(
    class_names: Sequence[str], dataset: DetectionDataset | Table, weights: str | Path
) -> list[int]:
    """The category id in the data set of each class of a checkpoint, by name."""
    if sorted(class_names) != sorted(dataset.class_names):
        raise UserError(
            f"{weights}: a checkpoint for the classes {', '.join(class_names)}; the data set has "
            f"{', '.join(dataset.class_names)}; expected the same names"
        )
    ids = dict(zip(dataset.class_names, dataset.category_ids, strict=True))
    return [ids[name] for name in class_names]
