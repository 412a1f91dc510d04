"""`python -m benchmarks.bars.recipes_cases`: times what the recipes in examples/ replace, on the
CPU, beside the functions of the packages, for recipes.py."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .. import ROOT
from ..case import BOTH, Case, Differentiable, Run
from ..inputs import COCO_800, Setup, ground_truth, random_boxes
from ..ops import nms
from . import command

CLASSES = COCO_800.classes
# By the name of a case: the package, and what of it is replaced.
PACKAGES = {
    "fvcore": ("fvcore", "`sigmoid_focal_loss_jit` of dense targets, as detectron2 calls it"),
    "mmdet loss": ("mmdet", "`FocalLoss`, of labels and weights of 0 and 1"),
    "mmdet assigner": ("mmdet", "`MaxIoUAssigner`, 20 boxes"),
    "mmdet nms": ("mmdet", "`batched_nms`, 5,000 boxes, 80 classes"),
    "ultralytics predict": ("ultralytics", "`non_max_suppression` as `predict` calls it, 8 images"),
    "ultralytics val": ("ultralytics", "`non_max_suppression` as `val` calls it, 8 images"),
    "transformers": ("transformers", "`sigmoid_focal_loss` of 16 images, 300 queries, 91 classes"),
}


def main(argv: Sequence[str] | None = None) -> int:
    return command.main("recipes_cases", __doc__, cases, argv)


def cases(setup: Setup) -> Iterator[tuple[str, Case]]:
    """By the names in PACKAGES."""
    yield "fvcore", fvcore(setup)
    yield "mmdet loss", mmdet_loss(setup)
    yield "mmdet assigner", mmdet_assigner(setup)
    yield "mmdet nms", mmdet_nms(setup)
    yield "ultralytics predict", ultralytics(setup, "predict", conf_thres=0.25)
    yield "ultralytics val", ultralytics(setup, "val", conf_thres=0.001, multi_label=True)
    yield "transformers", transformers(setup)


def recipe(name: str) -> ModuleType:
    """examples/NAME.py, which needs its package."""
    folder = str(ROOT / "examples")
    if folder not in sys.path:
        sys.path.append(folder)
    return importlib.import_module(name)


# Losses -----------------------------------------------------------------------------------------


class Loss(NamedTuple):
    logits: Tensor  # [n, K] or [B, Q, K]
    targets: Tensor
    weight: Tensor | None = None


def of_logits(loss: Callable[[Tensor], Tensor], x: Loss) -> Run:
    return Differentiable(lambda: (loss(x.logits),), (x.logits,))


def logits(setup: Setup, *shape: int) -> Tensor:
    drawn = torch.randn(*shape, generator=setup.random(0)) + COCO_800.logits
    return drawn.to(setup.dtype).requires_grad_()


def anchors_labelled(setup: Setup) -> Loss:
    """For each anchor a class, of which K is the background, and 0 for the ignored."""
    n, random = len(setup.anchors), setup.random(1)
    labels = torch.full((n,), CLASSES)
    foreground = torch.randperm(n, generator=random)[: n // 1000]
    labels[foreground] = torch.randint(CLASSES, (len(foreground),), generator=random)
    weight = (torch.rand(n, generator=random) < 0.99).to(setup.dtype)
    return Loss(logits(setup, n, CLASSES), labels, weight)


def one_hot(labels: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.nn.functional.one_hot(labels, CLASSES + 1)[..., :-1].to(dtype)


def fvcore(setup: Setup) -> Case:
    """detectron2 itself is not timed: no package index has it."""

    def inputs() -> Loss:
        x = anchors_labelled(setup)
        return Loss(x.logits, one_hot(x.targets, setup.dtype))

    def ours(x: Loss) -> Run:
        from focaldet.ops import sigmoid_focal_loss

        return of_logits(lambda y: sigmoid_focal_loss(y, x.targets, 0.25, 2.0, "sum"), x)

    def theirs(x: Loss) -> Run:
        from fvcore.nn import sigmoid_focal_loss_jit

        return of_logits(lambda y: sigmoid_focal_loss_jit(y, x.targets, 0.25, 2.0, "sum"), x)

    return Case("fvcore's focal loss", inputs, {"focaldet": ours, "fvcore": theirs}, ways=(BOTH,))


def mmdet_loss(setup: Setup) -> Case:
    def provider(name: str) -> Callable[[Loss], Run]:
        def prepare(x: Loss) -> Run:
            recipe("mmdetection_ops")
            from mmdet.registry import MODELS

            loss = MODELS.build({"type": name})
            return of_logits(lambda y: loss(y, x.targets, x.weight, avg_factor=100.0), x)

        return prepare

    names = {"focaldet": "FocaldetFocalLoss", "mmdet": "FocalLoss"}
    providers = {who: provider(name) for who, name in names.items()}
    return Case("mmdet's FocalLoss", partial(anchors_labelled, setup), providers, ways=(BOTH,))


def transformers(setup: Setup) -> Case:
    def inputs() -> Loss:
        images, queries = (2, 10) if setup.quick else (16, 300)
        shape = images, queries, 91
        targets = torch.rand(shape, generator=setup.random(1)) < 0.0003
        return Loss(logits(setup, *shape), targets.to(setup.dtype))

    def ours(x: Loss) -> Run:
        loss = recipe("huggingface_detr").sigmoid_focal_loss
        return of_logits(lambda y: loss(y, x.targets, 100.0), x)

    def theirs(x: Loss) -> Run:
        from transformers.loss.loss_for_object_detection import sigmoid_focal_loss

        return of_logits(lambda y: sigmoid_focal_loss(y, x.targets, 100.0), x)

    providers = {"focaldet": ours, "transformers": theirs}
    return Case("transformers' focal loss", inputs, providers, ways=(BOTH,))


# Matching ---------------------------------------------------------------------------------------


class Assignment(NamedTuple):
    priors: Tensor  # [n, 4]
    boxes: Tensor  # [T, 4]
    labels: Tensor  # int64 [T]


def mmdet_assigner(setup: Setup) -> Case:
    def inputs() -> Assignment:
        from focaldet.ops import generate_anchors

        truth = ground_truth(setup, 1, CLASSES)
        return Assignment(generate_anchors(setup.anchors), truth.boxes, truth.labels)

    def provider(name: str) -> Callable[[Assignment], Run]:
        def prepare(x: Assignment) -> Run:
            recipe("mmdetection_ops")
            from mmdet.registry import TASK_UTILS
            from mmengine.structures import InstanceData

            assigner = TASK_UTILS.build(
                {"type": name, "pos_iou_thr": 0.5, "neg_iou_thr": 0.4, "min_pos_iou": 0}
            )
            priors = InstanceData(priors=x.priors)
            truth = InstanceData(bboxes=x.boxes, labels=x.labels)

            def assign() -> tuple[Tensor, Tensor]:
                found = assigner.assign(priors, truth)
                return found.gt_inds, found.labels

            return assign

        return prepare

    names = {"focaldet": "FocaldetMaxIoUAssigner", "mmdet": "MaxIoUAssigner"}
    providers = {who: provider(name) for who, name in names.items()}
    return Case("mmdet's MaxIoUAssigner", inputs, providers)


# Suppression ------------------------------------------------------------------------------------


def mmdet_nms(setup: Setup) -> Case:
    settings = {"type": "nms", "iou_threshold": nms.IOU}

    def ours(x: nms.Inputs) -> Run:
        function = recipe("mmdetection_ops").batched_nms
        return lambda: function(x.boxes, x.scores, x.labels, settings)

    def theirs(x: nms.Inputs) -> Run:
        from mmcv.ops import batched_nms

        return lambda: batched_nms(x.boxes, x.scores, x.labels, settings)

    inputs = partial(nms.inputs, setup, nms.clustered, nms.QUICK if setup.quick else 5_000)
    return Case("mmdet's batched_nms", inputs, {"focaldet": ours, "mmdet": theirs})


def predictions(setup: Setup) -> Tensor:
    """[8, 4 + 80, 8400]: raw outputs of YOLO for images of 640 x 640, with boxes about 50 objects
    each. Candidates of an image: about 150 for `predict`, and 2,000 for `val`."""
    images, rows = (2, 60) if setup.quick else (8, 8400)
    random = setup.random(2)
    out = torch.empty(images, 4 + CLASSES, rows)
    for image, scores in zip(out[:, :4], out[:, 4:], strict=True):
        objects = random_boxes(setup, 50, seed=int(torch.randint(1 << 20, (), generator=random)))
        corners = objects[torch.randint(50, (rows,), generator=random)].float()
        corners += (torch.randn(rows, 4, generator=random) * 8).round()
        image[:2] = (corners[:, :2] + corners[:, 2:]).T / 2  # centres, then sizes
        image[2:] = (corners[:, 2:] - corners[:, :2]).T
        drawn = torch.randn(CLASSES, rows, generator=random, dtype=torch.float64) * 1.6 - 11.5
        strong = torch.rand(rows, generator=random) < 0.02
        drawn[:4, strong] += 10
        scores.copy_(drawn.sigmoid())
    return out.to(setup.dtype)


def ultralytics(setup: Setup, way: str, **arguments: Any) -> Case:
    arguments["iou_thres"] = 0.7

    def ours(x: Tensor) -> Run:
        function = recipe("ultralytics_nms").non_max_suppression
        return lambda: function(x, **arguments)

    def theirs(x: Tensor) -> Run:
        import torchvision  # noqa: F401  whose function it calls if it is there
        from ultralytics.utils.nms import non_max_suppression

        return lambda: non_max_suppression(x, max_time_img=1e9, **arguments)

    providers = {"focaldet": ours, "ultralytics": theirs}
    return Case(f"ultralytics' NMS, {way}", partial(predictions, setup), providers)


if __name__ == "__main__":
    sys.exit(main())
