"""retinanet_postprocess: from the head's raw maps to detections."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
from torch import Tensor

import focaldet.ops
import focaldet.reference
from focaldet import Anchors

from ..case import Case, Run, Work, call, difference
from ..inputs import COCO_800, CROWD, LVIS, Setup, Workload, head_maps

SETTINGS = {"score_threshold": 0.05, "topk": 1000, "iou_threshold": 0.5, "max_detections": 300}
LONG_LOOP = f"a Python loop over the kept boxes; see {COCO_800.name}"


class Inputs(NamedTuple):
    cls_logits: list[Tensor]  # [B, A * K, H, W] by level
    box_deltas: list[Tensor]  # [B, A * 4, H, W] by level
    grid: Anchors
    image_sizes: Tensor  # int64 [B, 2]


def cases(setup: Setup) -> Iterator[Case]:
    for workload in (COCO_800, CROWD, LVIS):
        yield case(setup, workload)


def case(setup: Setup, workload: Workload, batch: int = 1) -> Case:
    sized = workload.of(setup)
    return Case(
        f"retinanet_postprocess, {workload.name}",
        partial(inputs, sized, workload, batch),
        {
            "focaldet": call("focaldet.ops:retinanet_postprocess", arguments),
            "reference": call("focaldet.reference:retinanet_postprocess", arguments),
            "torchvision": torchvision_provider,
        },
        sizes={"B": batch, "N": len(sized.anchors), "K": workload.classes},
        # One look at every logit.
        work=lambda x, way: Work(read=sum(level.nbytes for level in x.cls_logits)),
        skip={"reference": LONG_LOOP} if workload is CROWD else {},
        differ=detections_differ,
    )


def inputs(setup: Setup, workload: Workload, batch: int) -> Inputs:
    sizes = torch.tensor([setup.image] * batch, device=setup.device)
    maps = head_maps(setup, batch, workload.classes, workload.logits)
    return Inputs(*maps, setup.anchors, sizes)


def arguments(x: Inputs) -> tuple[Any, ...]:
    return *x, *SETTINGS.values()


def torchvision_provider(x: Inputs) -> Run:
    """Its head's rearrangement of the maps and its post-processing; the anchors are given."""
    from torchvision.models.detection._utils import BoxCoder
    from torchvision.models.detection.retinanet import RetinaNet

    parts = SimpleNamespace(
        score_thresh=SETTINGS["score_threshold"],
        topk_candidates=SETTINGS["topk"],
        nms_thresh=SETTINGS["iou_threshold"],
        detections_per_img=SETTINGS["max_detections"],
        box_coder=BoxCoder((1.0, 1.0, 1.0, 1.0)),
    )
    levels = x.grid.levels()
    lengths = [len(level) for level in levels]
    tables = [focaldet.ops.generate_anchors(level, x.image_sizes.device) for level in levels]
    sizes = [tuple(size) for size in x.image_sizes.tolist()]

    def run() -> list[dict[str, Tensor]]:
        outputs = {
            name: list(focaldet.reference.flatten_maps(maps, x.grid.per_position).split(lengths, 1))
            for name, maps in {"cls_logits": x.cls_logits, "bbox_regression": x.box_deltas}.items()
        }
        return RetinaNet.postprocess_detections(parts, outputs, [tables] * len(sizes), sizes)

    return run


def detections_differ(result: Any, expected: Any, tolerance: float) -> str | None:
    """As `difference`, for padded tensors or torchvision's dicts by image. One row of boxes and
    labels in fifty may differ: torch's sigmoid is not ours to the last bit, and scores that are
    almost equal change places."""
    for image, (mine, theirs) in enumerate(zip(unpadded(result), unpadded(expected), strict=True)):
        if text := difference(mine["scores"], theirs["scores"], tolerance):
            return f"image {image}: scores: {text}"
        near = (mine["boxes"] - theirs["boxes"]).abs().amax(dim=1) < 1e-2
        same = near & (mine["labels"] == theirs["labels"])
        if int((~same).sum()) > len(same) // 50:
            return f"image {image}: {int((~same).sum())} of {len(same)} detections differ"
    return None


def unpadded(result: Any) -> list[dict[str, Tensor]]:
    if isinstance(result, list):
        return result
    *rows, counts = result
    return [
        {name: row[i, :n] for name, row in zip(("boxes", "scores", "labels"), rows, strict=True)}
        for i, n in enumerate(counts.tolist())
    ]
