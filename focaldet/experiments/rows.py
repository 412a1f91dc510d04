"""The rows of the paper's Table 1, as changes of a recipe, with the AP that the paper got.

Lin et al. 2017, arXiv 1708.02002, Table 1: COCO minival after training on trainval35k, ResNet-50
and 600 pixels unless named, in (d) ResNet-101.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Changes = Mapping[str, Mapping[str, Any]]  # of a `Configuration`, by table


@dataclass(frozen=True)
class Row:
    """One setting: trained once for each seed."""

    label: str
    changes: Changes
    paper: float | None = None  # COCO AP in percent


@dataclass(frozen=True)
class Experiment:
    """A table of the paper."""

    name: str
    table: str
    title: str
    rows: tuple[Row, ...]
    timed: bool = False  # whether the time of inference is measured, too


def _balanced(alpha: float, paper: float) -> Row:
    changes = {"model": {"loss": "balanced_cross_entropy", "alpha": alpha}}
    return Row(f"CE, alpha {alpha:g}", changes, paper)


def _focal(gamma: float, alpha: float, paper: float) -> Row:
    changes = {"model": {"loss": "focal", "gamma": gamma, "alpha": alpha}}
    return Row(f"FL, gamma {gamma:g}, alpha {alpha:g}", changes, paper)


def _anchors(scales: int, ratios: int, paper: float) -> Row:
    changes: Changes = {
        "anchors": {
            "convention": "paper",
            "scales": [2 ** (i / scales) for i in range(scales)],
            "aspect_ratios": {1: [1.0], 3: [0.5, 1.0, 2.0]}[ratios],
        }
    }
    return Row(f"{scales} scales, {ratios} ratios", changes, paper)


def _mined(loss: str, batch: int, nms: float, paper: float) -> Row:
    name = {"ohem": "OHEM", "ohem_1to3": "OHEM 1:3"}[loss]
    changes = {"model": {"loss": loss, "ohem_batch": batch, "ohem_nms_thresh": nms}}
    return Row(f"{name}, {batch} at {nms:g}", changes, paper)


def _sized(backbone: str, size: int, paper: float) -> Row:
    # The longest side as it is limited in Detectron: 1333 for 800.
    changes: Changes = {
        "model": {"backbone": backbone, "min_size": size, "max_size": round(size * 5 / 3)},
        "data": {"min_sizes": None},
    }
    return Row(f"{backbone}, {size} px", changes, paper)


CE_ALPHA = Experiment(
    "ce-alpha",
    "1a",
    "Balanced cross entropy, by alpha",
    tuple(
        _balanced(alpha, paper)
        for alpha, paper in {
            0.1: 0.0, 0.25: 10.8, 0.5: 30.2, 0.75: 31.1, 0.9: 30.8, 0.99: 28.7, 0.999: 25.1,
        }.items()
    ),
)  # fmt: skip
FL_GAMMA = Experiment(
    "fl-gamma",
    "1b",
    "Focal loss, by gamma, each with its best alpha",
    (
        _balanced(0.75, 31.1),  # gamma 0
        _focal(0.1, 0.75, 31.4),
        _focal(0.2, 0.75, 31.9),
        _focal(0.5, 0.5, 32.9),
        _focal(1.0, 0.25, 33.7),
        _focal(2.0, 0.25, 34.0),
        _focal(5.0, 0.25, 32.2),
    ),
)
ANCHORS = Experiment(
    "anchors",
    "1c",
    "Anchors, by scales and aspect ratios at each position",
    (
        _anchors(1, 1, 30.3),
        _anchors(2, 1, 31.9),
        _anchors(3, 1, 31.8),
        _anchors(1, 3, 32.4),
        _anchors(2, 3, 34.2),
        _anchors(3, 3, 34.0),
        _anchors(4, 3, 33.8),
    ),
)
OHEM = Experiment(
    "ohem",
    "1d",
    "Focal loss against online hard example mining, by batch and NMS threshold",
    (
        _mined("ohem", 128, 0.7, 31.1),
        _mined("ohem", 256, 0.7, 31.8),
        _mined("ohem", 512, 0.7, 30.6),
        _mined("ohem", 128, 0.5, 32.8),
        _mined("ohem", 256, 0.5, 31.0),
        _mined("ohem", 512, 0.5, 27.6),
        _mined("ohem_1to3", 128, 0.5, 31.1),
        _mined("ohem_1to3", 256, 0.5, 28.3),
        _mined("ohem_1to3", 512, 0.5, 24.0),
        _focal(2.0, 0.25, 36.0),
    ),
)
SPEED_ACCURACY = Experiment(
    "speed-accuracy",
    "1e",
    "Accuracy against the time of inference, by backbone and shorter side",
    (
        _sized("resnet50", 400, 30.5),
        _sized("resnet50", 500, 32.5),
        _sized("resnet50", 600, 34.3),
        _sized("resnet50", 700, 35.1),
        _sized("resnet50", 800, 35.7),
        _sized("resnet101", 400, 31.9),
        _sized("resnet101", 500, 34.4),
        _sized("resnet101", 600, 36.0),
        _sized("resnet101", 700, 37.1),
        _sized("resnet101", 800, 37.8),
    ),
    timed=True,
)

EXPERIMENTS = {e.name: e for e in (CE_ALPHA, FL_GAMMA, ANCHORS, OHEM, SPEED_ACCURACY)}
