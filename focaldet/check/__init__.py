"""What may be wrong with a data set: named checks, which go through all of it and change nothing.

`focaldet.data` stops at the first flaw, for a run should; here its readers go on, and name them
all. A check is a function in the module of its family: form, images, boxes, overlaps, classes,
splits, anchors. `CHECKS` has them by id.

    report = check_data(splits("BCCD"), Detector(Resize(320, 320), AnchorGrid.torchvision()))
    print(report.text())
"""

from __future__ import annotations

from collections.abc import Mapping

from ..data.folder import Source
from ..errors import UserError
from . import anchors, boxes, classes, form, images, overlaps, splits  # noqa: F401 (they register)
from .dataset import DataSet, Finding, Split
from .detector import Detector
from .registry import CHECKS, SEVERITIES, Check
from .report import Report

__all__ = ["CHECKS", "SEVERITIES", "Check", "DataSet", "Detector", "Finding", "Report", "Split"]


def check_data(
    sources: Mapping[str, Source],
    detector: Detector,
    *,
    with_images: bool = True,
    workers: int = 1,
) -> Report:
    """Runs all checks on the splits of a data set.

    Args:
        sources: The splits by name, as `focaldet.data.folder.splits` finds them; that to train on
            first.
        detector: What the boxes are to be learned by.
        with_images: Whether image files are read, which takes most of the time.
        workers: Threads that read them.

    Raises:
        UserError: There are no splits.
    """
    if not sources:
        raise UserError("no split of a data set; expected train and val")
    data = DataSet.read(sources, detector, workers)
    found = {
        check.id: list(check.find(data))
        for check in CHECKS.values()
        if with_images or not check.reads_images
    }
    return Report(data, found)
