"""The box losses: the twin against torchvision's, and csrc/math/box_loss.h against the twin."""

from __future__ import annotations

import math
import subprocess
from pathlib import Path

import headers
import pytest
import torch
from torch import Tensor

from focaldet import reference

KINDS = ("smooth_l1", "l1", "giou", "diou", "ciou")  # in the order of BoxLoss
OVERLAPS = KINDS[2:]
BETA = 0.1
LIMIT = math.log(1000 / 16)
Case = tuple[Tensor, Tensor, Tensor]  # deltas, anchors, gt_boxes: float64 [n, 4]


def boxes(n: int) -> Tensor:
    corner = torch.rand(n, 2, dtype=torch.float64) * 200
    return torch.cat([corner, corner + 8 + torch.rand(n, 2, dtype=torch.float64) * 100], dim=1)


def random_case(n: int = 200) -> Case:
    """Some overlap, some do not."""
    anchors = boxes(n)
    deltas = torch.randn(n, 4, dtype=torch.float64) * 0.3
    gt = reference.decode_boxes(torch.randn(n, 4, dtype=torch.float64) * 0.5, anchors)
    gt[: n // 4] = boxes(n // 4)
    return deltas, anchors, gt


def corner_case() -> Case:
    anchor = [16.0, 32, 48, 96]  # 32 x 64
    rows = {
        "identical": ([0, 0, 0, 0], anchor),
        "inside, one side in common": ([0, 0, 0, 0], [16, 40, 40, 80]),
        "touching at a side": ([0, 0, 0, 0], [48, 40, 80, 80]),
        "touching at a corner": ([0, 0, 0, 0], [48, 96, 80, 128]),
        "disjoint in x": ([0, 0, 0, 0], [64, 40, 80, 80]),
        "disjoint in both": ([0, 0, 0, 0], [64, 128, 80, 160]),
        "dw above the clamp": ([0.25, 0, LIMIT + 1, 0], [16, 40, 80, 80]),
        "both above the clamp": ([0, 0.125, 7, 80], [16, 40, 80, 80]),
    }
    deltas, gt = (
        torch.tensor([row[i] for row in rows.values()], dtype=torch.float64) for i in (0, 1)
    )
    return deltas, torch.tensor([anchor] * len(rows), dtype=torch.float64), gt


def loss_and_slopes(case: Case, kind: str, beta: float = BETA) -> tuple[Tensor, Tensor]:
    deltas = case[0].clone().requires_grad_()
    loss = reference.box_losses(deltas, *case[1:], kind, beta)
    return loss.detach(), torch.autograd.grad(loss.sum(), deltas)[0]


@pytest.mark.parametrize("kind", OVERLAPS)
def test_torchvision(kind: str) -> None:
    torchvision = pytest.importorskip("torchvision")
    name = {"giou": "generalized", "diou": "distance", "ciou": "complete"}[kind]
    theirs = getattr(torchvision.ops, f"{name}_box_iou_loss")
    for case in (random_case(), corner_case()):
        deltas = case[0].clone().requires_grad_()
        loss = theirs(reference.decode_boxes(deltas, case[1]), case[2])
        want = loss.detach(), torch.autograd.grad(loss.sum(), deltas)[0]
        # The same operations in nearly the same order, in float64.
        for ours, other in zip(loss_and_slopes(case, kind), want, strict=True):
            torch.testing.assert_close(ours, other, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_derivatives(kind: str) -> None:
    deltas, anchors, gt = random_case(12)
    # ciou's factor of v counts as a constant, which finite differences cannot know.
    if kind != "ciou":
        assert torch.autograd.gradcheck(
            lambda d: reference.box_losses(d, anchors, gt, kind, BETA), deltas.requires_grad_()
        )


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    source = Path(__file__).resolve().parent / "box_loss_values.cpp"
    return headers.program(source, tmp_path_factory.mktemp("box_loss"))


def of_the_header(
    program: Path, case: Case, kind: str, dtype: torch.dtype, beta: float
) -> tuple[Tensor, Tensor]:
    lines = [" ".join(map(repr, row)) for row in torch.cat(case, dim=1).tolist()]
    scalar = "float" if dtype == torch.float32 else "double"
    command = [str(program), scalar, str(KINDS.index(kind)), repr(beta)]
    done = subprocess.run(
        command, input="\n".join(lines), capture_output=True, text=True, check=True
    )
    rows = [[float(word) for word in line.split()] for line in done.stdout.splitlines()]
    result = torch.tensor(rows, dtype=torch.float64)
    assert result.shape == (len(lines), 5)
    return result[:, 0], result[:, 1:]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind,beta", [*((kind, BETA) for kind in KINDS), ("smooth_l1", 0.0)])
def test_header(program: Path, kind: str, beta: float, dtype: torch.dtype) -> None:
    for case in (random_case(), corner_case()):
        deltas, anchors, gt = case = tuple(part.to(dtype).double() for part in case)
        got = of_the_header(program, case, kind, dtype, beta)
        want = loss_and_slopes(case, kind, beta)
        # What rounds is the position of a side, relative to its distance from another; a loss is
        # made of at most eight. Smooth L1 divides by beta below it.
        sides = torch.cat([anchors, gt, reference.decode_boxes(deltas, anchors)], dim=1)
        sides = sides.view(-1, 3, 2, 2)
        reach = sides.abs().amax(dim=(1, 2, 3)) / sides.diff(dim=2).amin(dim=(1, 2, 3))
        tolerance = 8 * reach * torch.finfo(dtype).eps
        assert ((got[0] - want[0]).abs() <= tolerance * (1 + want[0])).all()
        steep = beta if kind == "smooth_l1" and beta > 0 else 1
        assert ((got[1] - want[1]).abs() <= tolerance[:, None] * (1 + want[1].abs()) / steep).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", KINDS)
def test_a_box_that_vanishes_is_finite(program: Path, kind: str, dtype: torch.dtype) -> None:
    """torchvision's CIoU divides 0 by 0 where both sides of a decoded box round to 0."""
    anchor = torch.tensor([[16.0, 32, 48, 96]], dtype=torch.float64)
    for dw, dh in ((-30, -29), (-30, 0), (0, -30), (-800, -800)):
        deltas = torch.tensor([[0.25, 0, dw, dh]], dtype=torch.float64)
        for gt in (anchor, torch.tensor([[20.0, 40, 20, 40]], dtype=torch.float64)):
            if kind in OVERLAPS or gt is anchor:  # the logarithm of an empty box is not finite
                loss, slopes = of_the_header(program, (deltas, anchor, gt), kind, dtype, BETA)
                assert loss.isfinite().all() and slopes.isfinite().all()
