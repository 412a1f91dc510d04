"""torch.library.opcheck of every registered operator: schema, fake, derivative, AOT dispatch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import focaldet.models.winograd  # noqa: F401 (registers the operators of focaldet_models)
from focaldet.ops import AnchorGrid

K, SIZES = 3, [(4, 6), (2, 3)]
ANCHORS = AnchorGrid.torchvision(sizes=(12, 24)).at(SIZES, (32, 48))
CELLS, FEATURES, STRIDES, OFFSET = ANCHORS.schema_arguments()
TABLE = focaldet.ops.generate_anchors(ANCHORS)
MATCHING = 0.5, 0.4, "torchvision"

Case = tuple[Any, ...]  # the arguments of a call


def logits(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return (torch.randn(*shape) * 2).to(dtype).requires_grad_()


def boxes(n: int) -> Tensor:
    corner = torch.rand(n, 2) * 20
    return torch.cat([corner, corner + 4 + torch.rand(n, 2) * 16], dim=1)


def number(value: float) -> Tensor:
    return torch.tensor(value)


def sigmoid(*last: Any, upstream: bool = False) -> list[Case]:
    """By labels, and from bfloat16 logits with soft targets and class weights."""
    weight = torch.rand(4)
    plain = logits(3, 4), torch.tensor([-1, 2, -2]), 0.25, 2.0, None, None, 0.0, "focal"
    soft = torch.rand(3, 4).bfloat16()
    weighted = logits(3, 4, dtype=torch.bfloat16), soft, 0.0, 1.5, weight, weight, 0.1, "focal"
    if upstream:
        return [(torch.rand(3, 4), *plain), (number(0.5), *weighted)]
    return [(*given, *last) for given in (plain, weighted)]


def softmax(upstream: bool = False) -> list[Case]:
    labels = torch.tensor([[3, -1, 0], [-2, 1, 1]])
    cases = [
        (logits(2, 3, 4, dtype=dtype), labels, *balance)
        for dtype in (torch.float32, torch.bfloat16)
        for balance in ((0.25, 2.0, None), (0.0, 1.5, torch.rand(4)))
    ]
    if not upstream:
        return cases
    incoming = [torch.rand(2, 3), torch.rand(())] * 2  # by row, and one for all
    return [(grad.requires_grad_(), *case) for grad, case in zip(incoming, cases, strict=True)]


def matching() -> list[Case]:
    truth = boxes(3), torch.tensor([0, 2, 3]), *MATCHING
    return [(None, *ANCHORS.schema_arguments(), *truth), (TABLE, [], [], [], 0.0, *truth)]


def maps(gradient: bool) -> tuple[list[Tensor], list[Tensor]]:
    by_channels = (
        [torch.randn(2, ANCHORS.per_position * n, *size).requires_grad_(gradient) for size in SIZES]
        for n in (K, 4)
    )
    return tuple(by_channels)


def loss(*last: Any, gradient: bool = True) -> Case:
    truth = boxes(3), torch.tensor([0, 2, 1]), torch.tensor([0, 2, 3])
    rest = *MATCHING, 0.25, 2.0, None, "smooth_l1", 0.1, None, False
    return *maps(gradient), CELLS, STRIDES, OFFSET, *truth, *rest, *last


def detect() -> Case:
    sizes = torch.tensor([[32, 48], [30, 40]])
    return *maps(False), CELLS, STRIDES, OFFSET, sizes, 0.05, 20, 0.5, 10, False


def padded() -> list[Case]:
    batch = boxes(12).view(2, 6, 4), torch.rand(2, 6)
    return [(*batch, labels, 0.5, 0.1, 4) for labels in (None, torch.randint(3, (2, 6)))]


def groups() -> list[Tensor | None]:
    return [None, torch.randint(3, (12,))]


def convolution() -> list[Case]:
    x, weight, bias = torch.randn(2, 5, 9, 8), torch.randn(7, 5, 3, 3), torch.randn(7)
    transformed = focaldet.models.winograd.transform_weight(weight)
    learning = [t.clone().requires_grad_() for t in (x, weight, bias)]
    return [tuple(learning), (learning[0], weight, None, transformed)]


CASES: dict[str, Callable[[], list[Case]]] = {
    "focaldet::sigmoid_focal_loss": sigmoid,
    "focaldet::sigmoid_focal_loss_sum": sigmoid,
    "focaldet::sigmoid_focal_loss_sum_and_gradient": lambda: sigmoid(None) + sigmoid(number(3)),
    "focaldet::sigmoid_focal_loss_backward": lambda: sigmoid(upstream=True),
    "focaldet::softmax_focal_loss": softmax,
    "focaldet::softmax_focal_loss_backward": lambda: softmax(upstream=True),
    "focaldet::generate_anchors": lambda: [(torch.empty(0), *ANCHORS.schema_arguments())],
    "focaldet::match_anchors": matching,
    "focaldet::count_foreground": matching,
    "focaldet::box_iou": lambda: [(boxes(5), boxes(3))],
    "focaldet::encode_boxes": lambda: [(boxes(5).double(), boxes(5))],
    "focaldet::decode_boxes": lambda: [
        (logits(5, 4, dtype=dtype), boxes(5)) for dtype in (torch.float32, torch.bfloat16)
    ],
    "focaldet::nms": lambda: [(boxes(12), torch.rand(12), 0.5)],
    "focaldet::batched_nms": lambda: [(boxes(12), torch.rand(12), groups()[1], 0.5)],
    "focaldet::nms_padded": padded,
    "focaldet::nms_match": lambda: [(boxes(12), torch.rand(12), ids, 0.5) for ids in groups()],
    "focaldet::soft_nms": lambda: [
        (boxes(12), torch.rand(12), ids, 0.3, 0.5, 0.001, "linear") for ids in groups()
    ],
    "focaldet::retinanet_loss": lambda: [loss()],
    # The incoming gradients, if given, are taken at their word in compiled code, which opcheck's
    # are not: with them it sees no derivative.
    "focaldet::retinanet_loss_and_gradient": lambda: [
        loss(None, None),
        loss(number(2.0), number(3.0), gradient=False),
    ],
    # What it writes over needs no gradient: focaldet/ops/_overwrite.py has its derivative.
    "focaldet::retinanet_loss_overwrite": lambda: [loss(None, None, gradient=False)],
    "focaldet::retinanet_postprocess": lambda: [detect()],
    "focaldet_models::winograd_conv2d": convolution,
    "focaldet_models::winograd_weight_gradient": lambda: [
        (torch.randn(2, 5, 9, 8), torch.randn(2, 7, 9, 8))
    ],
}


def test_every_operator_has_a_case() -> None:
    registered = {
        name.partition(".")[0]
        for name in torch._C._dispatch_get_all_op_names()
        if name.startswith(("focaldet::", "focaldet_models::"))
    }
    assert registered == set(CASES)


def moved(argument: Any, device: torch.device) -> Any:
    if isinstance(argument, list):
        return [moved(each, device) for each in argument]
    if not isinstance(argument, Tensor):
        return argument
    return argument.detach().to(device).requires_grad_(argument.requires_grad)


@pytest.mark.parametrize("name", [name for name in CASES if name.startswith("focaldet::")])
def test_opcheck(name: str, device: torch.device) -> None:
    operator = getattr(torch.ops.focaldet, name.partition("::")[2])
    for case in CASES[name]():
        torch.library.opcheck(operator, tuple(moved(argument, device) for argument in case))


@pytest.mark.parametrize("name", [name for name in CASES if name.startswith("focaldet_models::")])
def test_opcheck_of_what_runs_on_the_cpu_alone(name: str) -> None:
    operator = getattr(torch.ops.focaldet_models, name.partition("::")[2])
    for case in CASES[name]():
        torch.library.opcheck(operator, case)
