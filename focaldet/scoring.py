"""COCO's scores of detections, by pycocotools or a faster package that gives the same numbers."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any, NamedTuple

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from .errors import UserError
from .found import Floats, Found, Ints, ids

# Average precision and recall, at IoU .50:.95 unless named, with the most boxes an image unless
# named; s, m, l: areas up to 32^2, up to 96^2, and above. Those of MAX_DETECTIONS.
STATS = (
    "AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl",
)  # fmt: skip
MAX_DETECTIONS = (1, 10, 100)  # an image

Scores = dict[str, Any]


class Truth(NamedTuple):
    """Ground truth, with images and categories numbered from 0 in the order of their ids."""

    image_ids: Ints  # sorted
    category_ids: Ints  # sorted
    dataset: dict[str, Any]  # COCO's dict, of no more than is scored


class Curves(NamedTuple):
    """-1 where there is no ground truth. R: 101 recalls, M: numbers of detections an image."""

    precision: Floats  # [10 IoUs, R, categories, 4 ranges of area, M]
    recall: Floats  # [10 IoUs, categories, 4 ranges of area, M]


def evaluate_detections(
    ground_truth: Mapping[str, Any],
    detections: Sequence[Mapping[str, Any]] | Found,
    source: str = "detections",
    evaluator: str = "pycocotools",
    max_detections: Sequence[int] = MAX_DETECTIONS,
) -> Scores:
    """Scores detections, columns or records in COCO's results form, against COCO annotations.

    `evaluator` is one of EVALUATORS; the numbers are pycocotools', to the last bit, by any of them.
    `max_detections`: numbers of detections an image, rising; the average precision and the recall
    by area are with the last.

    Returns `{"tool": ..., "stats": {...}, "per_class_AP": {category id: AP}}`, with -1 where there
    is no ground truth to score; `stats` has the 12 of STATS, with an AR for each of
    `max_detections`. Raises `UserError` for a detection of an unknown image or category, or with an
    ill-formed box or score, `source` being its name for them all, and for an `evaluator` that is
    unknown or not installed.
    """
    check_evaluator(evaluator)
    if not (len(max_detections) and 0 < max_detections[0] and _rises(max_detections)):
        raise ValueError(
            f"max_detections: expected rising numbers above 0, got {list(max_detections)}"
        )
    found = detections if isinstance(detections, Found) else Found.from_records(detections, source)
    truth, curves = _scored(ground_truth, found, source, evaluator, max_detections)
    package = EVALUATORS[evaluator].package
    return {
        "tool": f"{package} {version(package)}",
        "stats": _stats(curves, max_detections),
        "per_class_AP": {
            str(category): _mean(curves.precision[:, :, k, 0, -1])
            for k, category in enumerate(truth.category_ids)
        },
    }


def up_to(most: int) -> list[int]:
    """MAX_DETECTIONS with another number in place of the last; those above it left out."""
    return [*(number for number in MAX_DETECTIONS[:-1] if number < most), most]


def precision_at_half(
    ground_truth: Mapping[str, Any], found: Found, max_detections: int
) -> dict[int, Floats]:
    """By category id, of those with ground truth: the precision at IoU .5 at the recalls 0, .01
    to 1, as pycocotools interpolates it, with that many detections an image. Raises as
    `evaluate_detections`."""
    settings = ("detections", "pycocotools", [max_detections])
    truth, curves = _scored(ground_truth, found, *settings)
    at_half = curves.precision[0, :, :, 0, -1]  # [R, categories]
    return {
        int(category): at_half[:, k]
        for k, category in enumerate(truth.category_ids)
        if at_half[0, k] > -1
    }


def check_evaluator(name: str) -> None:
    """Raises `UserError` for an evaluator that is unknown or not installed."""
    if name not in EVALUATORS:
        raise UserError(f"evaluator {name!r}: expected one of {', '.join(EVALUATORS)}")
    package = EVALUATORS[name].package
    if find_spec(package.replace("-", "_")) is None:
        raise UserError(
            f'evaluator {name}: {package} is not installed; pip install "focaldet[fast-eval]", or '
            "take pycocotools"
        )


def table(scores: Scores, names: Mapping[str, str]) -> str:
    """The scores of `stats` and the AP of each class, by falling AP, as lines of text.

    `names`: class name by category id (as a string, like the keys of `per_class_AP`).
    """
    width = max([len("class"), *(len(name) for name in names.values())])
    stats = [f"{name:<{width}}  {value:.3f}" for name, value in scores["stats"].items()]
    classes = [
        f"{names.get(key, key):<{width}}  " + (f"{value:.3f}" if value >= 0 else "no boxes")
        for key, value in sorted(scores["per_class_AP"].items(), key=lambda item: -item[1])
    ]
    return "\n".join([*stats, "", f"{'class':<{width}}  AP", *classes])


def _scored(
    ground_truth: Mapping[str, Any],
    found: Found,
    source: str,
    evaluator: str,
    max_detections: Sequence[int],
) -> tuple[Truth, Curves]:
    truth = _numbered(ground_truth)
    found.check(truth.image_ids, truth.category_ids, source)
    found = replace(
        found,
        image_ids=np.searchsorted(truth.image_ids, found.image_ids),
        category_ids=np.searchsorted(truth.category_ids, found.category_ids),
    )
    with contextlib.redirect_stdout(io.StringIO()):  # their progress
        curves = EVALUATORS[evaluator].curves(truth.dataset, found, max_detections)
    return truth, curves


def _numbered(ground_truth: Mapping[str, Any]) -> Truth:
    """What annotations lack is filled in. They are numbered from 1: pycocotools takes a match with
    annotation id 0 for no match. Those of unknown images and categories are never scored."""
    image_ids = np.unique(ids(ground_truth["images"], "id", "ground truth: image"))
    category_ids = np.unique(ids(ground_truth["categories"], "id", "ground truth: category"))
    images = {key: row for row, key in enumerate(image_ids.tolist())}
    categories = {key: row for row, key in enumerate(category_ids.tolist())}
    annotations = [
        {
            "id": number,
            "image_id": images[a["image_id"]],
            "category_id": categories[a["category_id"]],
            "bbox": a["bbox"],
            "area": a["area"] if "area" in a else a["bbox"][2] * a["bbox"][3],
            "iscrowd": a.get("iscrowd", 0),
        }
        for number, a in enumerate(ground_truth["annotations"], start=1)
        if a["image_id"] in images and a["category_id"] in categories
    ]
    dataset = {
        "images": [{"id": row} for row in images.values()],
        "categories": [{"id": row} for row in categories.values()],
        "annotations": annotations,
    }
    return Truth(image_ids, category_ids, dataset)


def _by_pycocotools(dataset: dict[str, Any], found: Found, max_detections: Sequence[int]) -> Curves:
    with np.errstate(over="ignore"):  # an infinite area is a large one
        areas = found.boxes[:, 2] * found.boxes[:, 3]
    columns = (found.image_ids, found.category_ids, found.boxes, found.scores, areas)
    rows = zip(*(column.tolist() for column in columns), strict=True)
    keys = ("image_id", "category_id", "bbox", "score", "area")
    detections = [
        {"id": number, "iscrowd": 0, **dict(zip(keys, row, strict=True))}
        for number, row in enumerate(rows, start=1)
    ]
    truth, results = COCO(), COCO()
    truth.dataset, results.dataset = dataset, {**dataset, "annotations": detections}
    truth.createIndex()
    results.createIndex()
    return _curves(COCOeval(truth, results, "bbox"), max_detections)


def _by_ultrafast(dataset: dict[str, Any], found: Found, max_detections: Sequence[int]) -> Curves:
    import ultrafast_pycocotools as ultrafast

    rows = np.column_stack([found.image_ids, found.boxes, found.scores, found.category_ids])
    truth = ultrafast.COCO(dataset, verbose=False)
    return _curves(ultrafast.COCOeval(truth, truth.loadRes(rows), "bbox"), max_detections)


def _curves(scoring: Any, max_detections: Sequence[int]) -> Curves:
    """`scoring`: a COCOeval of either package."""
    scoring.params.maxDets = list(max_detections)
    scoring.evaluate()
    scoring.accumulate()
    return Curves(scoring.eval["precision"], scoring.eval["recall"])


class Evaluator(NamedTuple):
    package: str  # its name on PyPI
    curves: Callable[[dict[str, Any], Found, Sequence[int]], Curves]  # of what is numbered


EVALUATORS = {
    "pycocotools": Evaluator("pycocotools", _by_pycocotools),
    "ultrafast": Evaluator("ultrafast-pycocotools", _by_ultrafast),
}


def _stats(curves: Curves, max_detections: Sequence[int]) -> dict[str, float]:
    """COCOeval.stats, which has them for MAX_DETECTIONS alone."""
    precision, recall = curves
    areas = dict(enumerate("sml", start=1))
    return {
        "AP": _mean(precision[..., 0, -1]),
        "AP50": _mean(precision[0, ..., 0, -1]),
        "AP75": _mean(precision[5, ..., 0, -1]),
        **{f"AP{name}": _mean(precision[..., area, -1]) for area, name in areas.items()},
        **{f"AR{most}": _mean(recall[..., 0, m]) for m, most in enumerate(max_detections)},
        **{f"AR{name}": _mean(recall[..., area, -1]) for area, name in areas.items()},
    }


def _mean(values: Floats) -> float:
    """Of those with ground truth; -1 without any."""
    values = values[values > -1]
    return float(values.mean()) if values.size else -1.0


def _rises(numbers: Sequence[int]) -> bool:
    return all(a < b for a, b in zip(numbers, numbers[1:], strict=False))
