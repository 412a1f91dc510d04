"""Precision against recall of this image's detections, class by class."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from ...found import Found
from ...models.transform import GroundTruth
from ...plots import COLOURS
from ...scoring import precision_at_half
from ..charts import Line, chart
from ..look import Look
from ..markup import figures, first, paragraph, table
from ..markup import section as section_of

LINES = 12  # classes in the chart
TITLE = "Precision and recall of this image"
NO_TRUTH = "Without ground truth (--data) there is no precision or recall."


def section(look: Look) -> str:
    if look.target is None:
        return section_of(TITLE, paragraph(NO_TRUTH, "muted"))
    labels = look.target["labels"].tolist()
    truth = {
        "images": [{"id": 0}],
        "categories": [{"id": label} for label in range(len(look.class_names))],
        "annotations": [
            {"image_id": 0, "category_id": label, "bbox": box, "iscrowd": crowd}
            for crowd, objects in enumerate((look.target, look.crowd))
            for label, box in _boxes(objects)
        ],
    }
    found = Found.on_image(0, look.scored, range(len(look.class_names)))
    curves = precision_at_half(truth, found, look.limit)
    if not curves:
        return section_of(TITLE, paragraph("There are no objects on this image.", "muted"))
    drawn, left = first(list(curves), LINES, "classes")
    scored = look.scored["labels"].tolist()
    lines = [
        Line(look.class_names[label], label % len(COLOURS), curves[label].tolist())
        for label in drawn
    ]
    return section_of(
        TITLE,
        paragraph(
            f"Of the {len(scored):,} detections with a score above {look.least:g}, at IoU .5, as "
            "pycocotools counts and interpolates them. One image says little of a class: "
            "`focaldet evaluate` scores a data set."
        ),
        figures([chart(lines, "recall", "precision")], "half"),
        left,
        table(
            ("class", "objects", "detections", "AP at IoU .5"),
            (
                (
                    "",
                    (
                        look.class_names[label],
                        str(labels.count(label)),
                        str(scored.count(label)),
                        f"{curve.mean():.3f}",
                    ),
                )
                for label, curve in curves.items()
            ),
        ),
    )


def _boxes(objects: GroundTruth | None) -> Iterator[tuple[int, list[float]]]:
    """Labels, and [x, y, width, height]."""
    if objects is not None:
        corners = objects["boxes"].double()
        boxes = torch.cat([corners[:, :2], corners[:, 2:] - corners[:, :2]], 1)
        yield from zip(objects["labels"].tolist(), boxes.tolist(), strict=True)
