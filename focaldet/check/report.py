"""What the checks found, as text and as JSON."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any

import numpy as np

from ..words import counted
from . import anchors, classes
from .dataset import DataSet, Finding, Split
from .detector import FOREGROUND
from .registry import CHECKS, ERROR, SEVERITIES, Check

EXAMPLES = 3  # of a check, in the text
CLASSES = 20  # in the text


class Report:
    """Attributes: `findings`, by id, of every check that ran; `facts` by split and boxes by
    class and split (`classes`), of the sound boxes that are no crowd; `anchors`, as
    `focaldet.check.anchors.describe` has them, None without boxes.
    """

    def __init__(self, data: DataSet, findings: Mapping[str, list[Finding]]) -> None:
        self._data = data
        self.findings: Mapping[str, list[Finding]] = findings
        self.facts: dict[str, dict[str, Any]] = {split.name: _facts(split) for split in data.splits}
        self.classes: dict[str, dict[str, int]] = classes.counts(data)

    @cached_property
    def anchors(self) -> dict[str, Any] | None:
        return anchors.describe(self._data) if len(self._data.splits[0].learned) else None

    def of_severity(self, severity: str) -> list[Check]:
        """The checks that found something."""
        found = [CHECKS[id] for id, findings in self.findings.items() if findings]
        return [check for check in found if check.severity == severity]

    @property
    def has_errors(self) -> bool:
        return bool(self.of_severity(ERROR))

    def text(self) -> str:
        return "\n".join(self._lines())

    def json(self) -> dict[str, Any]:
        """All findings, not only examples."""
        return {
            "splits": self.facts,
            "classes": self.classes,
            "anchors": self.anchors,
            "checks": [
                {
                    "id": id,
                    "severity": CHECKS[id].severity,
                    "means": CHECKS[id].means,
                    "advice": CHECKS[id].advice,
                    "findings": [finding._asdict() for finding in found],
                }
                for id, found in self.findings.items()
            ],
        }

    def _lines(self) -> Iterator[str]:
        for name, facts in self.facts.items():
            yield f"{name}: {_in_words(facts)}"
        for name, by_split in list(self.classes.items())[:CLASSES]:
            yield f"  {name:20}" + "".join(f"{n:9,} in {split}" for split, n in by_split.items())
        if len(self.classes) > CLASSES:
            more = len(self.classes) - CLASSES
            yield f"  and {counted(more, 'more class', 'more classes')}"
        for severity in SEVERITIES:
            for check in self.of_severity(severity):
                found = self.findings[check.id]
                yield ""
                yield f"{severity}: {check.id} ({len(found):,}): {check.means} {check.advice}"
                yield from (f"  {finding}" for finding in found[:EXAMPLES])
                if len(found) > EXAMPLES:
                    yield f"  and {len(found) - EXAMPLES:,} more"
        if self.anchors:
            yield ""
            yield from _anchor_lines(self.anchors)
        yield ""
        numbers = ((len(self.of_severity(s)), s) for s in SEVERITIES)
        shown = ", ".join(counted(n, severity) for n, severity in numbers)
        yield f"{len(self.findings)} checks: {shown}"


def _facts(split: Split) -> dict[str, Any]:
    counts, images = split.counts, len(split.table.image_ids)
    return {
        "source": split.table.source,
        "images": images,
        "boxes": len(split.learned),
        "crowd_regions": int(split.table.crowd.sum()),
        "classes": len(split.table.class_names),
        "boxes_per_image": float(np.mean(counts)) if images else 0.0,
        "most_boxes": int(counts.max(initial=0)),
        "images_without_boxes": int((counts == 0).sum()),
    }


def _in_words(facts: Mapping[str, Any]) -> str:
    images, boxes = counted(facts["images"], "image"), counted(facts["boxes"], "box", "boxes")
    kinds = counted(facts["classes"], "class", "classes")
    without = counted(facts["images_without_boxes"], "image")
    parts = [
        f"{images}, {boxes} of {kinds}",
        f"{facts['boxes_per_image']:.3g} an image, at most {facts['most_boxes']}",
        f"{without} without",
    ]
    if facts["crowd_regions"]:
        parts.append(counted(facts["crowd_regions"], "crowd region"))
    return "; ".join(parts)


def _anchor_lines(fit: dict[str, Any]) -> Iterator[str]:
    yield (
        f"anchors: {fit['recall']:.1%} of the boxes of {fit['split']} have one with an IoU of "
        f"{FOREGROUND:g}; the median of the best is {fit['median_iou']:.2f}"
    )
    for name, part in fit["by"].items():
        yield f"  {name:20}{counted(part['boxes'], 'box', 'boxes'):>15}{part['recall']:8.1%}"
    foreground = fit["foreground"]
    yield (
        f"  an image has {foreground['anchors']:.0f} foreground anchors (median), and "
        f"{foreground['background_to_one']:,.0f} others for each"
    )
    better = fit["suggestion"]
    ratios = tuple(better["aspect_ratios"])
    yield f"  suggested: --anchor-size {better['size']}, with which {better['recall']:.1%} have one"
    if ratios != anchors.USUAL:
        recipe = f"sizes = {better['sizes']}, aspect_ratios = {list(ratios)}"
        yield f"    by other ratios, in a recipe, [anchors]: {recipe}"
