"""soft_nms and nms_match: the reference, by hand, and the corner cases."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from focaldet import reference
from focaldet.ops import batched_nms, nms, nms_match, soft_nms

METHODS = ("linear", "gaussian")
NAN, INF = math.nan, math.inf
SQUARE = [0.0, 0.0, 10.0, 10.0]


def example(n: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    """boxes, scores, groups"""
    corner = torch.rand(n, 2) * 100
    boxes = torch.cat([corner, corner + 10 + torch.rand(n, 2) * 40], dim=1)
    return boxes.to(dtype), torch.rand(n).to(dtype), torch.randint(-1, 2, (n,))


def check_soft(
    boxes: Tensor, scores: Tensor, device: torch.device, *options, idxs: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    groups = None if idxs is None else idxs.to(device)
    keep, new = soft_nms(boxes.to(device), scores.to(device), *options, idxs=groups)
    want, want_new = reference.soft_nms(boxes, scores, *options, idxs=idxs)
    assert torch.equal(keep.cpu(), want) and new.dtype == want_new.dtype
    # exp may differ by an ulp or two at each of the decays, of which there are fewer than boxes.
    rtol = 3 * torch.finfo(new.dtype).eps * max(1, len(boxes))
    torch.testing.assert_close(new.cpu(), want_new, rtol=rtol, atol=0)
    return keep.cpu(), new.cpu()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("count", [0, 1, 2, 63, 64, 65, 140])
def test_reference(count: int, method: str, device: torch.device) -> None:
    boxes, scores, idxs = example(count)
    for groups in (None, idxs):
        check_soft(boxes, scores, device, 0.3, 0.5, 1e-3, method, idxs=groups)
    check_soft(boxes, scores.mul(4).round().div(4), device, 0.3, 0.5, 0.25, method)  # ties


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_dtypes(dtype: torch.dtype, method: str, device: torch.device) -> None:
    boxes, scores, idxs = example(70, dtype)
    check_soft(boxes, scores, device, 0.3, 0.5, 1e-3, method, idxs=idxs)
    check_soft(boxes, scores.float(), device, 0.3, 0.5, 1e-3, method)


def test_by_hand(device: torch.device) -> None:
    boxes = torch.tensor([SQUARE, [0, 0, 10, 5], [20, 0, 30, 10]], device=device)
    scores = torch.tensor([0.5, 0.4, 0.3], device=device)
    keep, new = soft_nms(boxes, scores, 0.3)  # IoU 1/2: 0.4 falls to 0.2
    assert keep.tolist() == [0, 2, 1]
    assert new.tolist() == torch.tensor([0.5, 0.3, 0.2]).tolist()
    keep, new = soft_nms(boxes, scores, 0.5)  # the threshold itself is no overlap
    assert keep.tolist() == [0, 1, 2]
    keep, new = soft_nms(boxes, scores, sigma=0.25, method="gaussian")
    torch.testing.assert_close(new.cpu(), torch.tensor([0.5, 0.3, 0.4 * math.exp(-1)]))
    keep, _ = soft_nms(boxes, scores, 0.3, min_score=0.2)  # what equals min_score is in
    assert keep.tolist() == [0, 2, 1]
    keep, _ = soft_nms(boxes, scores, 0.3, min_score=0.21)
    assert keep.tolist() == [0, 2]


CORNER_CASES: dict[str, tuple[list[list[float]], list[float], list[int]]] = {
    "NaN": ([SQUARE, [NAN, 0, 10, 10], SQUARE], [NAN, 0.9, 0.5], [2]),
    "one box twice": ([SQUARE, SQUARE], [0.5, 0.9], [1]),  # the weight is 0
    "infinite scores": ([SQUARE, [50, 0, 60, 10]], [INF, INF], [0, 1]),
    "an infinite score decays to nothing": ([SQUARE, SQUARE], [INF, INF], [0]),
    "infinite boxes": ([[-INF, -INF, INF, INF], SQUARE, [0, 0, INF, 10]], [3, 2, 1], [0, 1, 2]),
    "zero area": ([[5, 5, 5, 5], SQUARE, [5, 5, 5, 5]], [3, 2, 1], [0, 1, 2]),
    "inverted": ([[10, 10, 0, 0], SQUARE, [10, 0, 0, 10]], [3, 2, 1], [0, 1, 2]),
    "huge": ([[0, 0, 1e20, 1e20], [0, 0, 1e20, 1e20]], [2, 1], [0, 1]),
    "negative and zero scores": ([SQUARE, SQUARE, SQUARE], [-1, 0.0, -0.0], []),
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("case", CORNER_CASES)
def test_corner_cases(case: str, method: str, device: torch.device) -> None:
    boxes, scores, keep = CORNER_CASES[case]
    b, s = torch.tensor(boxes).float(), torch.tensor(scores).float()
    if method == "gaussian":  # with a weight below min_score for the same box
        check_soft(b, s, device, 0.3, 0.1, 1e-3, method)
        return
    assert check_soft(b, s, device)[0].tolist() == keep


@pytest.mark.parametrize("method", METHODS)
def test_many_boxes_of_any_kind(method: str) -> None:
    """Over several blocks: sizes far apart, huge, infinite, inverted and empty ones."""
    boxes, scores, idxs = example(500)
    boxes[::7] *= 1e20
    boxes[1::11, 2] = INF
    boxes[2::11] = boxes[2::11, [2, 3, 0, 1]]
    boxes[3::11, 3] = boxes[3::11, 1]
    boxes[4::31, 0] = -INF
    scores[6::13] = scores[5::13][: len(scores[6::13])]
    check_soft(boxes, scores, torch.device("cpu"), 0.3, 0.5, 1e-3, method, idxs=idxs)


def test_without_a_least_score(device: torch.device) -> None:
    boxes, scores, _ = example(90)
    scores[::3] = 0
    scores[1] = -0.0
    keep, new = check_soft(boxes, scores, device, 0.2, 0.5, 0.0)
    assert sorted(keep.tolist()) == list(range(90))
    assert new.tolist() == sorted(new.tolist(), reverse=True)
    assert not new.signbit().any()


def test_soft_nms_on_any_number_of_threads() -> None:
    boxes, scores, _ = example(3000)
    idxs = torch.randint(0, 9, (3000,))
    results = []
    for threads in (1, 2, 5):
        torch.set_num_threads(threads)
        results.append(soft_nms(boxes, scores, method="gaussian", idxs=idxs))
    assert all(all(map(torch.equal, results[0], other)) for other in results[1:])


@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("count", [0, 1, 65, 300])
def test_match(count: int, grouped: bool, device: torch.device) -> None:
    boxes, scores, groups = example(count)
    scores = scores.mul(16).round()
    boxes[5::50, 2], scores[7::50] = NAN, NAN
    idxs = groups if grouped else None
    for threshold in (0.0, 0.3, 0.6):
        want = reference.nms_match(boxes, scores, threshold, idxs)
        moved = [x if x is None else x.to(device) for x in (boxes, scores, idxs)]
        keep, match = nms_match(*moved[:2], threshold, moved[2])
        assert torch.equal(keep.cpu(), want[0]) and torch.equal(match.cpu(), want[1])
        plain = nms(*moved[:2], threshold) if idxs is None else batched_nms(*moved, threshold)
        assert torch.equal(keep, plain)
        assert torch.equal(match[keep], keep)


def test_the_best_suppressor_is_named(device: torch.device) -> None:
    """The last box is overlapped by both others, which do not suppress each other."""
    boxes = torch.tensor([[0.0, 0, 10, 10], [4, 0, 14, 10], [2, 0, 12, 10]], device=device)
    keep, match = nms_match(boxes, torch.tensor([0.8, 0.9, 0.1], device=device), 0.5)
    assert keep.tolist() == [1, 0] and match.tolist() == [0, 1, 1]


def test_compile(device: torch.device) -> None:
    def both(boxes: Tensor, scores: Tensor) -> Tensor:
        keep, new = soft_nms(boxes, scores)
        kept, match = nms_match(boxes, scores, 0.5)
        return boxes[keep].sum() + new.sum() + boxes[kept].sum() + match.sum()

    torch._dynamo.reset()
    with torch._dynamo.config.patch(capture_dynamic_output_shape_ops=True):
        compiled = torch.compile(both, fullgraph=True, backend="aot_eager")
        for n in (6, 20):
            boxes, scores, _ = (x.to(device) for x in example(n))
            torch.testing.assert_close(compiled(boxes, scores), both(boxes, scores))
