"""What a detector might have done on an image, written down by hand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from focaldet.anatomy import Anatomy
from focaldet.explain.look import Candidates, Look
from focaldet.ops import Anchors, nms_match

NAMES = ["ant", "bee", "<script>alert('cat')</script>"]
FAR = [90.0, 90, 99, 99]
NEVER = -20.0  # a logit

Box = list[float]
Scored = tuple[Box, float, int]  # box, score, label


def look(
    objects: list[tuple[Box, int]] | None,
    found: Sequence[Scored] = (),
    anchors: Sequence[tuple[Box, int]] = ((FAR, -1),),
    decoded: Sequence[Scored] = ((FAR, 0.0, 0),),
    **changes: Any,
) -> Look:
    """found: candidates. anchors: with the object that each is matched to. decoded: of each
    anchor its box, and the score of one class."""
    grid = Anchors(((tuple(FAR),) * len(anchors),), ((1, 1),), ((100, 100),), 0.5)
    logits = torch.full((len(anchors), len(NAMES)), NEVER)
    for row, (_, score, label) in enumerate(decoded):
        logits[row, label] = torch.tensor(score).logit(eps=1e-9)
    match = torch.tensor([row for _, row in anchors])
    classes = torch.tensor([label for _, label in objects or []] + [0])
    anatomy = Anatomy(
        grid=grid,
        scale=torch.ones(4),
        size=(100, 100),
        anchors=boxes([box for box, _ in anchors]),
        level=torch.zeros(len(anchors), dtype=torch.int64),
        logits=logits,
        boxes=boxes([box for box, *_ in decoded]),
        match=match,
        labels=torch.where(match >= 0, classes[match.clamp(min=0)], match),
        alpha=0.25,
        gamma=2.0,
    )
    found = sorted(found, key=lambda each: -each[1])
    scores, labels = (torch.tensor([each[i] for each in found]) for i in (1, 2))
    truth = None
    if objects is not None:
        truth = {"boxes": boxes([box for box, _ in objects]), "labels": classes[:-1]}
    candidates = boxes([box for box, *_ in found]), scores.float(), labels.long()
    keep, match = nms_match(candidates[0], candidates[1], 0.5, candidates[2])
    made = Look(
        name="photo.jpg",
        weights="best.safetensors",
        class_names=NAMES,
        picture=Image.new("RGB", (100, 100), "teal"),
        target=truth,
        crowd=None,
        anatomy=anatomy,
        candidates=Candidates(*candidates, keep, match),
        threshold=0.5,
        least=0.05,
        nms_iou=0.5,
        limit=100,
        fg_iou=0.5,
        finest_level=3,
    )
    return replace(made, **changes)


def boxes(rows: list[Box]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float32).reshape(-1, 4)
