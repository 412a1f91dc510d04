"""The operators that FCOS, SSD and the R-CNNs of torchvision share, replaced in one model.

Their methods call them by names of their modules. A copy of a method, with the same code and other
values for some of these names, calls ours, and nobody else's method changes.
"""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor, nn
from torchvision.models.detection import FCOS
from torchvision.models.detection._utils import Matcher, SSDMatcher
from torchvision.models.detection.fcos import FCOSHead
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.models.detection.rpn import RegionProposalNetwork
from torchvision.models.detection.ssd import SSD
from torchvision.ops import boxes as box_ops

from . import _matching, _operators
from ._plan import Plan, Step, overridden
from ._report import Left, Replaced
from ._swap import original

# Methods that call ours --------------------------------------------------------------------------


class _Boxes:
    """torchvision.ops.boxes, of which some functions are ours."""

    def __init__(self, **ours: Callable[..., Any]) -> None:
        self.__dict__.update(ours)

    def __getattr__(self, name: str) -> Any:
        return getattr(box_ops, name)


def _calling(method: types.FunctionType, **names: Any) -> types.FunctionType:
    """The method, with other values for some names of its module."""
    made = types.FunctionType(
        method.__code__,
        {**method.__globals__, **names},
        method.__name__,
        method.__defaults__,
        method.__closure__,
    )
    made.__kwdefaults__, made.__doc__ = method.__kwdefaults__, method.__doc__
    return made


_NMS = _Boxes(batched_nms=_operators.batched_nms)
_PAIRS = _Boxes(box_iou=_matching.pairs)


class FCOSSuppression:
    postprocess_detections = _calling(FCOS.postprocess_detections, box_ops=_NMS)


class FCOSLoss:
    compute_loss = _calling(FCOSHead.compute_loss, sigmoid_focal_loss=_operators.sigmoid_focal_loss)


class SSDMatching:
    forward = _calling(SSD.forward, box_ops=_PAIRS)


class SSDSuppression:
    postprocess_detections = _calling(SSD.postprocess_detections, box_ops=_NMS)


class ProposalMatching:
    """A region proposal network has box_iou in an attribute, which a property of its class comes
    before."""

    @property
    def box_similarity(self) -> Callable[[Tensor, Tensor], Any]:
        return _matching.pairs


class ProposalSuppression:
    filter_proposals = _calling(RegionProposalNetwork.filter_proposals, box_ops=_NMS)


class RegionMatching:
    assign_targets_to_proposals = _calling(RoIHeads.assign_targets_to_proposals, box_ops=_PAIRS)


class RegionSuppression:
    postprocess_detections = _calling(RoIHeads.postprocess_detections, box_ops=_NMS)


# What may be replaced ----------------------------------------------------------------------------

SUPPRESSION = "batched_nms", "comparing all pairs of boxes"
LOSS = "sigmoid_focal_loss", "its intermediate results, the size of the logits each"
MATCHING = "match_anchors", "the IoU matrix"


class _Method(NamedTuple):
    """A method that calls an operator, and what has it call ours."""

    name: str
    mixin: type
    operator: str
    saves: str


_METHODS = {
    FCOS: [_Method("postprocess_detections", FCOSSuppression, *SUPPRESSION)],
    FCOSHead: [_Method("compute_loss", FCOSLoss, *LOSS)],
    SSD: [
        _Method("forward", SSDMatching, *MATCHING),
        _Method("postprocess_detections", SSDSuppression, *SUPPRESSION),
    ],
    RegionProposalNetwork: [
        _Method("assign_targets_to_anchors", ProposalMatching, *MATCHING),
        _Method("filter_proposals", ProposalSuppression, *SUPPRESSION),
    ],
    RoIHeads: [
        _Method("assign_targets_to_proposals", RegionMatching, *MATCHING),
        _Method("postprocess_detections", RegionSuppression, *SUPPRESSION),
    ],
}
_PARTS: dict[type, dict[str, type]] = {
    FCOS: {"": FCOS, "head": FCOSHead},
    SSD: {"": SSD},
    GeneralizedRCNN: {"rpn": RegionProposalNetwork, "roi_heads": RoIHeads},
}
_ELSE = {
    FCOS: [Left("compute_loss", "matches by distance, not by IoU")],
    SSD: [Left("compute_loss", "cross entropy with mined negatives")],
}
_MATCHERS = {Matcher: _matching.PairMatcher, SSDMatcher: _matching.SSDPairMatcher}


def plan(model: nn.Module, kind: type) -> Plan:
    """A method that the model overrides is left as it is. Raises ValueError if all are."""
    steps: list[Step] = []
    left: list[Left] = []
    for where, base in _PARTS[kind].items():
        part = model.get_submodule(where)
        more, why = _plan_part(where and where + ".", part, base)
        steps += more
        left += why
    if not steps:
        reasons = "; ".join(f"{where}: {why}" for where, why in left)
        raise ValueError(
            f"accelerate: nothing can be replaced in this model. {reasons}. Nothing was changed."
        )
    return Plan(steps, [*left, *_ELSE.get(kind, ())])


def _plan_part(prefix: str, part: Any, base: type) -> tuple[list[Step], list[Left]]:
    rows: dict[type, Replaced] = {}  # by mixin
    left: list[Left] = []
    matcher = getattr(part, "proposal_matcher", None)
    own = overridden(part, base, [method.name for method in _METHODS[base]])
    for method in _METHODS[base]:
        matching = method.operator == MATCHING[0]
        if method.name in own:
            left.append(Left(prefix + method.name, "overridden: not torchvision's code"))
        elif matching and original(matcher) not in _MATCHERS:
            why = f"the matcher is a {type(matcher).__name__}, not torchvision's"
            left.append(Left(prefix + method.name, why))
        elif matching and base is RegionProposalNetwork and _own_similarity(part):
            left.append(Left(prefix + method.name, "box_similarity is not torchvision's box_iou"))
        else:
            rows[method.mixin] = Replaced(prefix + method.name, method.operator, method.saves)
    if not rows:
        return [], left
    steps = [Step(part, tuple(rows), tuple(rows.values()))]
    if any(row.by == MATCHING[0] for row in rows.values()):
        steps.append(Step(matcher, (_MATCHERS[original(matcher)],)))
    return steps, left


def _own_similarity(part: nn.Module) -> bool:
    return vars(part).get("box_similarity") is not box_ops.box_iou
