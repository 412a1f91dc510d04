"""nms, batched_nms and nms_padded: the reference, torchvision, and the corner cases of peers.

Properties that hold for any input are in test_nms_properties.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from focaldet import reference
from focaldet.ops import batched_nms, nms, nms_padded

THRESHOLDS = (0.0, 0.1, 0.3, 0.5, 0.7, 1.0)
COUNTS = (0, 1, 2, 63, 64, 65, 1023, 1024, 1025)
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
NAN, INF = math.nan, math.inf


def random_boxes(n: int, clusters: int = 0) -> Tensor:
    """Uniform over 400 x 400 pixels, or jittered around a few centres as a detector's are."""
    corner = torch.rand(n, 2) * 400
    if clusters:
        corner = (torch.rand(clusters, 2) * 400)[torch.randint(clusters, (n,))] + torch.randn(n, 2)
    return torch.cat([corner, corner + 10 + torch.rand(n, 2) * 40], dim=1)


def check_nms(boxes: Tensor, scores: Tensor, threshold: float, device: torch.device) -> list[int]:
    got = nms(boxes.to(device), scores.to(device), threshold)
    assert got.dtype == torch.int64 and got.device.type == device.type
    assert got.tolist() == reference.nms(boxes, scores, threshold).tolist()
    return got.tolist()


def check_batched(
    boxes: Tensor, scores: Tensor, idxs: Tensor, threshold: float, device: torch.device
) -> list[int]:
    got = batched_nms(boxes.to(device), scores.to(device), idxs.to(device), threshold)
    assert got.dtype == torch.int64
    assert got.tolist() == reference.batched_nms(boxes, scores, idxs, threshold).tolist()
    return got.tolist()


@pytest.mark.parametrize("clusters", [0, 5])
@pytest.mark.parametrize("count", COUNTS)
def test_reference(count: int, clusters: int, device: torch.device) -> None:
    boxes, idxs = random_boxes(count, clusters), torch.randint(-2, 3, (count,))
    for threshold in THRESHOLDS if count < 100 else (0.5,):
        for scores in (torch.rand(count), torch.rand(count).mul(8).round()):  # few or many ties
            check_nms(boxes, scores, threshold, device)
            check_batched(boxes, scores, idxs, threshold, device)


@pytest.mark.parametrize("threshold", [0.05, 0.45, 0.5, 0.9])
@pytest.mark.parametrize("count", [1, 200, 2000])
def test_torchvision(count: int, threshold: float, device: torch.device) -> None:
    torchvision = pytest.importorskip("torchvision")
    for clusters in (0, 20):
        boxes, scores = random_boxes(count, clusters).to(device), torch.rand(count).to(device)
        ties = scores.mul(16).round()
        for s in (scores, ties):
            theirs = torchvision.ops.nms(boxes, s, threshold)
            assert torch.equal(nms(boxes, s, threshold), theirs)
        # Whole pixels, so that torchvision's shift of coordinates by class loses nothing.
        whole, idxs = boxes.round(), torch.randint(0, 9, (count,), device=device)
        theirs = torchvision.ops.batched_nms(whole, scores, idxs, threshold)
        assert torch.equal(batched_nms(whole, scores, idxs, threshold), theirs)


@pytest.mark.parametrize("tenths", range(1, 10))
def test_an_iou_of_exactly_the_threshold_is_kept(tenths: int, device: torch.device) -> None:
    """The threshold is rounded as the IoU is. torchvision's CPU kernel compares the rounded IoU
    with the double, so it suppresses wherever float32 rounds a tenth upwards."""
    boxes, scores = torch.tensor([[0.0, 0, 10, 1], [0.0, 0, tenths, 1]]), torch.tensor([0.9, 0.8])
    threshold = tenths / 10
    assert check_nms(boxes, scores, threshold, device) == [0, 1]
    assert check_nms(boxes.double(), scores.double(), threshold, device) == [0, 1]
    below = math.nextafter(threshold, 0)  # the same float32, another double
    assert check_nms(boxes, scores, below, device) == [0, 1]
    assert check_nms(boxes.double(), scores.double(), below, device) == [0]
    torchvision = pytest.importorskip("torchvision")
    theirs = torchvision.ops.nms(boxes, scores, threshold).tolist()
    assert theirs == ([0] if tenths in (1, 2, 3, 4, 6, 8) else [0, 1])


SQUARE = [0.0, 0.0, 10.0, 10.0]
CORNER_CASES: dict[str, tuple[list[list[float]], list[float], list[int]]] = {  # at threshold 0.5
    "NaN score": ([SQUARE, SQUARE, [50, 0, 60, 10]], [NAN, 0.5, NAN], [1]),
    "NaN box": ([[0, NAN, 10, 10], SQUARE, [NAN, 0, 10, 10]], [0.9, 0.5, 0.4], [1]),
    "all NaN": ([[NAN] * 4] * 3, [0.3, 0.2, 0.1], []),
    "infinite scores": ([SQUARE, [50, 0, 60, 10], SQUARE], [-INF, INF, 0.0], [1, 2]),
    "equal infinite scores": ([SQUARE, SQUARE, [50, 0, 60, 10]], [INF, INF, INF], [0, 2]),
    "infinite boxes": ([[-INF, -INF, INF, INF], SQUARE, [0, 0, INF, 10]], [3, 2, 1], [0, 1, 2]),
    "zero area duplicates": ([[5, 5, 5, 5]] * 3, [3, 2, 1], [0, 1, 2]),
    "lines": ([[0, 5, 10, 5], [0, 5, 10, 5], SQUARE], [3, 2, 1], [0, 1, 2]),
    "inverted": ([[10, 10, 0, 0], SQUARE, [10, 0, 0, 10]], [3, 2, 1], [0, 1, 2]),
    "huge": ([[0, 0, 1e20, 1e20], [0, 0, 1e20, 1e20], SQUARE], [3, 2, 1], [0, 1, 2]),
    "large": ([[0, 0, 1e18, 1e18], [0, 0, 1e18, 1e18], SQUARE], [3, 2, 1], [0, 2]),
    "tiny": ([[0, 0, 1e-30, 1e-30], [0, 0, 1e-30, 1e-30]], [2, 1], [0, 1]),
    "negative coordinates": ([[-20, -20, -10, -10], [-20, -20, -10, -9]], [1, 2], [1]),
    "equal scores": ([[0, 0, 10, 11], SQUARE, SQUARE], [1, 1, 1], [0]),
    "signed zeros": ([SQUARE, SQUARE], [-0.0, 0.0], [0]),
}


@pytest.mark.parametrize("case", CORNER_CASES)
def test_corner_cases(case: str, device: torch.device) -> None:
    boxes, scores, keep = CORNER_CASES[case]
    b, s = torch.tensor(boxes).float(), torch.tensor(scores).float()
    assert check_nms(b, s, 0.5, device) == keep
    assert check_batched(b, s, torch.zeros(len(s), dtype=torch.int64), 0.5, device) == keep
    labels = torch.zeros(1, len(s), dtype=torch.int64, device=device)
    padded, count = nms_padded(b[None].to(device), s[None].to(device), labels, 0.5, -INF, 8)
    keep = [row for row in keep if scores[row] > -INF]
    assert count.tolist() == [len(keep)] and padded[0].tolist() == keep + [-1] * (8 - len(keep))


@pytest.mark.parametrize("dtype", DTYPES)
def test_dtypes(dtype: torch.dtype, device: torch.device) -> None:
    boxes, scores = random_boxes(300, 8).to(dtype), torch.rand(300).to(dtype)
    check_nms(boxes, scores, 0.5, device)
    check_nms(boxes * 8, scores, 0.5, device)  # areas over 65504
    idxs = torch.randint(0, 3, (300,))
    for integer in (torch.int64, torch.int32, torch.uint8):
        check_batched(boxes, scores, idxs.to(integer), 0.5, device)
    for other in DTYPES:  # mixed
        check_nms(boxes, scores.to(other), 0.5, device)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_score_threshold_is_rounded_as_the_scores_are(
    dtype: torch.dtype, device: torch.device
) -> None:
    """float32 scores of boxes in any dtype: 0.1 does not exceed 0.1."""
    boxes = torch.tensor([[SQUARE]]).to(dtype).to(device)
    scores, labels = torch.tensor([[0.1]], device=device), torch.zeros(1, 1, dtype=torch.int64)
    _, count = nms_padded(boxes, scores, labels.to(device), 0.5, 0.1)
    assert count.tolist() == [0]


LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "columns": lambda boxes: boxes.t().contiguous().t(),
    "every other": lambda boxes: boxes.repeat_interleave(2, 0)[::2],
    "misaligned": lambda boxes: torch.cat([boxes.new_zeros(1), boxes.flatten()])[1:].view(-1, 4),
    "wide rows": lambda boxes: torch.cat([boxes, boxes], dim=1)[:, :4],
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(layout: str, device: torch.device) -> None:
    boxes, scores = random_boxes(200, 6), torch.rand(200)
    idxs = torch.randint(0, 3, (200,))
    assert torch.equal(LAYOUTS[layout](boxes), boxes)
    check_nms(LAYOUTS[layout](boxes), scores.repeat_interleave(2)[::2], 0.5, device)
    check_batched(LAYOUTS[layout](boxes), scores, idxs.repeat(2).view(2, -1)[1], 0.5, device)
    check_nms(boxes[:1].expand(5, 4), scores[:1].expand(5), 0.5, device)


def test_groups_are_compared_by_id(device: torch.device) -> None:
    """Negative ids, ids that float32 or int32 cannot tell apart, and negative coordinates, where
    torchvision's shift of coordinates breaks."""
    ids = torch.tensor([-1, 0, 1 << 24, (1 << 24) + 1, 1 << 40, -(1 << 62), (1 << 62) + 1])
    boxes = torch.tensor([[-50.0, -50, -40, -40]]).repeat(14, 1)
    scores, idxs = torch.arange(14.0), ids.repeat(2)
    assert check_batched(boxes, scores, idxs, 0.5, device) == list(range(13, 6, -1))
    far = boxes * 1e6
    assert check_batched(far, scores, idxs, 0.5, device) == list(range(13, 6, -1))


def test_chain(device: torch.device) -> None:
    """Each box overlaps the next one only: every other is kept, one after the other."""
    n = 501
    x = torch.arange(n, dtype=torch.float32) * 4
    boxes = torch.stack([x, torch.zeros(n), x + 10, torch.full((n,), 10.0)], dim=1)
    assert check_nms(boxes, -x, 0.3, device) == list(range(0, n, 2))


def test_all_overlap_and_none_overlap(full_size_device: torch.device) -> None:
    device, n = full_size_device, 400_000  # past 370,704, where N * N / 64 leaves int32
    same = torch.tensor([SQUARE], device=device).expand(n, 4)
    scores = torch.rand(n, device=device)
    assert nms(same, scores, 0.5).tolist() == [int(scores.argmax())]
    apart = torch.arange(2000.0)[:, None] * 20 + torch.tensor(SQUARE)
    keep = nms(apart.to(device), torch.arange(2000.0, device=device), 0.5)
    assert keep.tolist() == list(range(1999, -1, -1))


def test_a_million_classes(full_size_device: torch.device) -> None:
    device, n = full_size_device, 1_000_000
    boxes = torch.tensor([SQUARE], device=device).expand(2 * n, 4)
    scores = torch.cat([torch.zeros(n), torch.ones(n)]).to(device)
    idxs = torch.arange(n, device=device).repeat(2)
    keep = batched_nms(boxes, scores, idxs, 0.5)  # the better one of each class, in row order
    assert torch.equal(keep, torch.arange(n, 2 * n, device=device))


@pytest.mark.parametrize("max_detections", [0, 1, 7, 100, 500])
@pytest.mark.parametrize("score_threshold", [-INF, 0.0, 0.5, 1.0, INF])
def test_padded_reference(
    max_detections: int, score_threshold: float, device: torch.device
) -> None:
    boxes, labels = random_boxes(3 * 150, 9).view(3, 150, 4), torch.randint(-1, 3, (3, 150))
    scores = torch.rand(3, 150).mul(16).round().div(16)  # ties at every cut, and at the threshold
    scores[1] = -1  # nothing in the middle of the batch
    arguments = boxes, scores, labels
    rest = 0.5, score_threshold, max_detections
    idx, count = nms_padded(*(a.to(device) for a in arguments), *rest)
    want_idx, want_count = reference.nms_padded(*arguments, *rest)
    assert idx.dtype == count.dtype == torch.int64 and idx.shape == (3, max_detections)
    assert torch.equal(idx.cpu(), want_idx) and torch.equal(count.cpu(), want_count)


def test_padded_of_nothing(device: torch.device) -> None:
    for shape in ((0, 5), (3, 0), (0, 0)):
        labels = torch.zeros(shape, dtype=torch.int64, device=device)
        idx, count = nms_padded(
            torch.zeros(*shape, 4, device=device), torch.ones(shape, device=device), labels, 0.5
        )
        assert idx.shape == (shape[0], 100) and (idx == -1).all()
        assert count.tolist() == [0] * shape[0]


def test_any_number_of_threads() -> None:
    boxes, scores = random_boxes(3000, 40), torch.rand(3000).mul(64).round()
    idxs = torch.randint(0, 30, (3000,))
    batch = boxes.view(4, 750, 4), scores.view(4, 750), idxs.view(4, 750)
    results = []
    for threads in (1, 2, 5):
        torch.set_num_threads(threads)
        found = nms(boxes, scores, 0.4), batched_nms(boxes, scores, idxs, 0.4)
        results.append(torch.cat([*found, nms_padded(*batch, 0.4)[0].flatten()]))
    assert all(torch.equal(results[0], other) for other in results[1:])


def test_boxes_that_require_a_gradient(device: torch.device) -> None:
    boxes = random_boxes(20).to(device).requires_grad_()
    scores = torch.rand(20, device=device, requires_grad=True)
    assert not nms(boxes, scores, 0.5).requires_grad
