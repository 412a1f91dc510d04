"""The rows of the paper's Table 1, as changes of a recipe, with the AP that the paper got."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from . import paper

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


def _balanced(alpha: float, ap: float) -> Row:
    changes = {"model": {"loss": "balanced_cross_entropy", "alpha": alpha}}
    return Row(f"CE, alpha {alpha:g}", changes, ap)


def _focal(gamma: float, alpha: float, ap: float) -> Row:
    changes = {"model": {"loss": "focal", "gamma": gamma, "alpha": alpha}}
    return Row(f"FL, gamma {gamma:g}, alpha {alpha:g}", changes, ap)


def _anchors(scales: int, ratios: int, ap: float) -> Row:
    changes: Changes = {
        "anchors": {
            "convention": "paper",
            "scales": [2 ** (i / scales) for i in range(scales)],
            "aspect_ratios": {1: [1.0], 3: [0.5, 1.0, 2.0]}[ratios],
        }
    }
    return Row(f"{scales} scales, {ratios} ratios", changes, ap)


def _mined(loss: str, batch: int, nms: float, ap: float) -> Row:
    name = {"ohem": "OHEM", "ohem_1to3": "OHEM 1:3"}[loss]
    changes = {"model": {"loss": loss, "ohem_batch": batch, "ohem_nms_thresh": nms}}
    return Row(f"{name}, {batch} at {nms:g}", changes, ap)


def _sized(backbone: str, size: int, ap: float) -> Row:
    # The longest side as in the recipes of coco/: Detectron's 1333 for 800, and in proportion.
    changes: Changes = {
        "model": {"backbone": backbone, "min_size": size, "max_size": round(size * 1333 / 800)},
        "data": {"min_sizes": None},
    }
    return Row(f"{backbone}, {size} px", changes, ap)


CE_ALPHA = Experiment(
    "ce-alpha",
    "1a",
    "Balanced cross entropy, by alpha",
    tuple(_balanced(alpha, result.ap) for alpha, result in paper.CE_ALPHA.items()),
)
FL_GAMMA = Experiment(
    "fl-gamma",
    "1b",
    "Focal loss, by gamma, each with its best alpha",
    tuple(
        _focal(gamma, alpha, result.ap) if gamma else _balanced(alpha, result.ap)
        for (gamma, alpha), result in paper.FL_GAMMA.items()
    ),
)
ANCHORS = Experiment(
    "anchors",
    "1c",
    "Anchors, by scales and aspect ratios at each position",
    tuple(_anchors(*numbers, result.ap) for numbers, result in paper.ANCHORS.items()),
)
OHEM = Experiment(
    "ohem",
    "1d",
    "Focal loss against online hard example mining, by batch and NMS threshold",
    (
        *(_mined("ohem", *how, result.ap) for how, result in paper.OHEM.items()),
        *(_mined("ohem_1to3", *how, result.ap) for how, result in paper.OHEM_1TO3.items()),
        _focal(2.0, 0.25, paper.OHEM_FOCAL.ap),
    ),
)
SPEED_ACCURACY = Experiment(
    "speed-accuracy",
    "1e",
    "Accuracy against the time of inference, by backbone and shorter side",
    tuple(
        _sized(f"resnet{depth}", size, result.ap)
        for (depth, size), result in paper.SPEED_ACCURACY.items()
    ),
    timed=True,
)

EXPERIMENTS = {e.name: e for e in (CE_ALPHA, FL_GAMMA, ANCHORS, OHEM, SPEED_ACCURACY)}
