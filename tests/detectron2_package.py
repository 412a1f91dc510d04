"""detectron2 or its stand-ins, with examples/detectron2_ops.py: what the tests of it share."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from types import ModuleType, SimpleNamespace
from typing import Any

import detectron2_rcnn_stand_in
import detectron2_stand_in
import pytest
import torch

CLASSES, STRIDES = 7, [8, 16]
RATIOS, SIZES = [0.5, 1.0, 2.0], [[24.0, 30.0], [48.0, 60.0]]


class Package:
    """The recipe, and what the tests use of detectron2 or its stand-in."""

    def __init__(self, name: str, recipe: ModuleType) -> None:
        self.recipe = recipe
        if name == "stand-in":
            found = vars(detectron2_stand_in) | vars(detectron2_rcnn_stand_in)
        else:
            parts = ("structures", "modeling.matcher", "modeling.box_regression")
            parts += ("modeling.anchor_generator", "modeling.meta_arch.retinanet")
            parts += ("modeling.proposal_generator.rpn", "modeling.roi_heads.roi_heads")
            modules = [import_module(f"detectron2.{part}") for part in parts]
            found = {name: value for module in modules for name, value in vars(module).items()}
        self.parts = SimpleNamespace(**found)

    def model(self, ours: bool, **changes: Any) -> Any:
        parts = self.parts
        settings = {
            "backbone": SimpleNamespace(output_shape=lambda: {"p3": None, "p4": None}),
            "head": None,
            "head_in_features": ["p3", "p4"],
            "anchor_generator": parts.DefaultAnchorGenerator(
                sizes=SIZES, aspect_ratios=RATIOS, strides=STRIDES, offset=0.5
            ),
            "box2box_transform": parts.Box2BoxTransform(weights=(1.0, 1.0, 1.0, 1.0)),
            "anchor_matcher": parts.Matcher([0.4, 0.5], [0, -1, 1], True),
            "num_classes": CLASSES,
            "smooth_l1_beta": 0.1,
            "test_score_thresh": 0.3,
            "test_topk_candidates": 200,
            "pixel_mean": [0.0, 0.0, 0.0],
            "pixel_std": [1.0, 1.0, 1.0],
        }
        cls = self.recipe.FocaldetRetinaNet if ours else parts.RetinaNet
        return cls(**settings | changes)

    def truth(self, counts: tuple[int, ...] = (9, 0, 4)) -> list[Any]:
        found = []
        for n in counts:
            corner = torch.rand(n, 2) * 70
            boxes = torch.cat([corner, corner + 12 + torch.rand(n, 2) * 40], dim=1)
            instances = self.parts.Instances(
                (128, 128), gt_boxes=self.parts.Boxes(boxes), gt_classes=torch.arange(n) % CLASSES
            )
            found.append(instances)
        return found


def opened(
    name: str, monkeypatch: pytest.MonkeyPatch, recipe: Callable[[str], ModuleType]
) -> Iterator[Package]:
    if name == "stand-in":
        kept = sys.modules.pop("detectron2_ops", None)  # made of the real package, once
        detectron2_stand_in.install(monkeypatch)
        detectron2_rcnn_stand_in.install(monkeypatch)
        yield Package(name, recipe("detectron2_ops"))
        del sys.modules["detectron2_ops"]
        if kept is not None:
            sys.modules["detectron2_ops"] = kept
    else:
        from detectron2.utils.events import EventStorage

        with EventStorage():
            yield Package(name, recipe("detectron2_ops"))
