"""Cases of a chosen size: the points of sweeps, and the short set that CI times."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from .case import Case
from .clock import WARM
from .inputs import COCO_800, CROWD, Setup, Workload
from .measure import measure
from .ops import anchors, boxes, focal_loss, match, nms, postprocess, retinanet_loss
from .ops import softmax_focal_loss as softmax
from .plots.series import sizes_text
from .report import Row

UNIFORM, CLUSTERED = nms.UNIFORM, CROWD.name
MOST = 10_000_000  # logits, of which the twins of the losses take gigabytes
LOGIT = -2.9444  # of the score 0.05, above which it is a candidate


@dataclass(frozen=True)
class Size:
    """`side`: of the square image, which decides how many anchors there are. `boxes`: of the ground
    truth, or those that are suppressed. `logits`: their mean, which decides how many of them are
    candidates. An operator looks at what concerns it."""

    side: int = 512
    classes: int = COCO_800.classes
    boxes: int = 20
    layout: str = UNIFORM
    logits: float = COCO_800.logits

    def of(self, setup: Setup) -> Setup:
        """Quick: a workload takes the image that this has."""
        return replace(setup, image=(self.side, self.side), quick=True)

    @property
    def workload(self) -> Workload:
        image = (self.side, self.side)
        return Workload("", image, self.classes, self.boxes, logits=self.logits)


Sized = tuple[str, Case, dict[str, int]]  # a title, and the sizes that a plot can draw it against


def of_focal_loss(setup: Setup, size: Size) -> Iterator[Sized]:
    case = focal_loss.case(size.of(setup), size.workload, dense=False)
    yield "sigmoid_focal_loss from labels", case, sizes(case, "N", "K")


def of_softmax_focal_loss(setup: Setup, size: Size) -> Iterator[Sized]:
    case = next(softmax.cases(size.of(setup)))
    yield "softmax_focal_loss", case, sizes(case, "N", "K")


def of_anchors(setup: Setup, size: Size) -> Iterator[Sized]:
    case = anchors.case(size.of(setup), size.workload)
    yield "generate_anchors", case, sizes(case, "N")


def of_match(setup: Setup, size: Size) -> Iterator[Sized]:
    case = match.case(size.of(setup), size.workload)
    yield "match_anchors", case, sizes(case, "N") | {"boxes": size.boxes}


def of_nms(setup: Setup, size: Size) -> Iterator[Sized]:
    for function in ("nms", "batched_nms"):
        whole = replace(setup, quick=False)  # quick has fewer boxes than `size`
        case = nms.case(whole, function, size.layout, size.boxes, COCO_800)
        yield f"{function}, {size.layout}", case, sizes(case, "N")


def of_boxes(setup: Setup, size: Size) -> Iterator[Sized]:
    at = size.of(setup)
    for case in boxes.cases(at):
        yield case.name.partition(",")[0], case, {"N": len(at.anchors)}


def of_retinanet_loss(setup: Setup, size: Size) -> Iterator[Sized]:
    case = retinanet_loss.case(size.of(setup), size.workload)
    yield "retinanet_loss", case, sizes(case, "N", "K")


def of_postprocess(setup: Setup, size: Size) -> Iterator[Sized]:
    case = postprocess.case(size.of(setup), size.workload)
    candidates = sum(int((level > LOGIT).sum()) for level in case.inputs().cls_logits)
    yield "retinanet_postprocess", case, sizes(case, "N", "K") | {"candidates": candidates}


def sizes(case: Case, *names: str) -> dict[str, int]:
    return {name: case.sizes[name] for name in names}


OPS: dict[str, Callable[[Setup, Size], Iterator[Sized]]] = {
    "focal_loss": of_focal_loss,
    "softmax_focal_loss": of_softmax_focal_loss,
    "anchors": of_anchors,
    "match": of_match,
    "nms": of_nms,
    "boxes": of_boxes,
    "retinanet_loss": of_retinanet_loss,
    "postprocess": of_postprocess,
}


def cases(op: str, setup: Setup, size: Size, **swept: int | str) -> Iterator[Case]:
    """Named by their sizes. `swept`: those that `size` does not hold."""
    for title, case, of_case in OPS[op](setup, size):
        found = of_case | swept
        skip = dict(case.skip)
        if op.endswith("loss") and found["N"] * found["K"] > MOST:
            skip["reference"] = "takes gigabytes"
        yield replace(case, name=f"{title}, {sizes_text(found)}", sizes=found, skip=skip)


@dataclass(frozen=True)
class Timing:
    """Who is timed, and how."""

    wanted: Sequence[str]
    rounds: int
    caches: Sequence[str] = (WARM,)

    def rows(self, op: str, setup: Setup, size: Size, **swept: Any) -> Iterator[list[Row]]:
        for case in cases(op, setup, size, **swept):
            yield measure(op, case, setup, self.wanted, self.rounds, self.caches)
