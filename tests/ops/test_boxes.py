"""box_iou, encode_boxes and decode_boxes."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from focaldet import reference
from focaldet.ops import box_iou, decode_boxes, encode_boxes

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
INF, NAN = math.inf, math.nan


def random_boxes(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Sides of 10 to 200 pixels within 500: no two differ so much that decoding clamps."""
    corner = torch.rand(*shape, 2, dtype=dtype) * 300
    return torch.cat([corner, corner + 10 + torch.rand(*shape, 2, dtype=dtype) * 190], dim=-1)


def wide(*dtypes: torch.dtype) -> torch.dtype:
    return torch.float64 if torch.float64 in dtypes else torch.float32


def close(a: Tensor, b: Tensor, scale: float) -> None:
    """Equal but for a few roundings (sizes, centres, quotients, logarithms or exponentials: at most
    eight) of numbers as large as `scale`, which differences can leave in small results."""
    eps = torch.finfo(a.dtype).eps
    torch.testing.assert_close(a.cpu(), b.cpu(), rtol=8 * eps, atol=8 * eps * scale)


@pytest.mark.parametrize("left", DTYPES)
@pytest.mark.parametrize("right", DTYPES)
def test_iou_bit_for_bit(left: torch.dtype, right: torch.dtype, device: torch.device) -> None:
    a, b = random_boxes(37).to(left), random_boxes(53).to(right)
    got = box_iou(a.to(device), b.to(device))
    assert got.dtype == wide(left, right)
    assert torch.equal(got.cpu(), reference.box_iou(*(x.to(got.dtype) for x in (a, b))))
    if wide(left, right) == torch.float32:
        torchvision = pytest.importorskip("torchvision")
        assert torch.equal(got.cpu(), torchvision.ops.box_iou(a.float(), b.float()))


def test_iou_by_hand(device: torch.device) -> None:
    a = torch.tensor([[0.0, 0, 10, 10], [-10, -10, 0, 0], [3, 3, 3, 9]], device=device)
    b = torch.tensor([[5.0, 0, 15, 10], [0, 0, 10, 5], [-10, -10, 10, 10]], device=device)
    expected = [[50 / 150, 0.5, 0.25], [0, 0, 0.25], [0, 0, 0]]
    torch.testing.assert_close(box_iou(a, b).cpu(), torch.tensor(expected))
    points = torch.tensor([[3.0, 3, 3, 3]], device=device)
    assert box_iou(points, points).isnan().all()
    assert box_iou(a[:1].half() * 60, b[:1].half() * 60).item() == pytest.approx(1 / 3)  # > 65504


@pytest.mark.parametrize("n,m", [(0, 0), (0, 3), (3, 0), (1, 1), (1, 1000), (1000, 1)])
def test_iou_sizes(n: int, m: int, device: torch.device) -> None:
    a, b = random_boxes(n), random_boxes(m)
    got = box_iou(a.to(device), b.to(device))
    assert got.shape == (n, m) and torch.equal(got.cpu(), reference.box_iou(a, b))


def test_iou_layouts_and_threads() -> None:
    a, b = random_boxes(301), random_boxes(203)
    want = box_iou(a, b)
    assert torch.equal(box_iou(a.t().contiguous().t(), b.repeat(2, 1)[::1][:203]), want)
    assert torch.equal(box_iou(torch.cat([a, a], 1)[:, :4], b.flip(0)).flip(1), want)
    for threads in (1, 2, 5):
        torch.set_num_threads(threads)
        assert torch.equal(box_iou(a, b), want)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(40,), (3, 7), (2, 0), ()])
def test_coder(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> None:
    gt, anchors = random_boxes(*shape).to(dtype), random_boxes(*shape).to(dtype)
    deltas = encode_boxes(gt.to(device), anchors.to(device))
    assert deltas.shape == (*shape, 4) and deltas.dtype == wide(dtype)
    # dx = (x - x_a) / w_a: the difference cancels, so errors are relative to x / w_a, up to 50.
    close(deltas, reference.encode_boxes(gt, anchors), 50)
    boxes = decode_boxes(deltas, anchors.to(device))
    assert boxes.shape == (*shape, 4) and boxes.dtype == wide(dtype)
    close(boxes, reference.decode_boxes(deltas.cpu(), anchors), 500)
    # And back again: the roundings of dx, relative to 50, times sides of 200 pixels.
    close(boxes, gt.to(boxes.dtype), 50 * 200)


def test_torchvision_coder(device: torch.device) -> None:
    pytest.importorskip("torchvision")
    from torchvision.models.detection._utils import BoxCoder

    coder = BoxCoder((1.0, 1.0, 1.0, 1.0))
    gt, anchors = random_boxes(200), random_boxes(200)
    close(encode_boxes(gt.to(device), anchors.to(device)), coder.encode_single(gt, anchors), 50)
    deltas = torch.randn(200, 4) * torch.tensor([1.0, 1, 3, 3])
    theirs = coder.decode_single(deltas, anchors)
    # Sides reach 62.5 * 200 pixels.
    close(decode_boxes(deltas.to(device), anchors.to(device)), theirs, 12500)


def test_decoding_by_hand(device: torch.device) -> None:
    anchor = torch.tensor([[10.0, 20, 30, 60]], device=device).expand(6, 4)  # 20 x 40 at (20, 40)
    deltas = torch.tensor(
        [
            [0, 0, 0, 0],
            [0.5, -0.25, 0, 0],
            [0, 0, math.log(2), math.log(0.5)],
            [0, 0, 100, INF],  # clamped: 62.5 times as large
            [0, 0, -100, -INF],  # not clamped below
            [INF, NAN, 0, 0],
        ],
        device=device,
    )
    expected = [
        [10, 20, 30, 60],
        [20, 10, 40, 50],
        [0, 30, 40, 50],
        [20 - 625, 40 - 1250, 20 + 625, 40 + 1250],
        [20, 40, 20, 40],
        [INF, NAN, INF, NAN],
    ]
    got = decode_boxes(deltas, anchor).cpu()
    torch.testing.assert_close(got, torch.tensor(expected).float(), equal_nan=True)


def test_encoding_degenerate_boxes(device: torch.device) -> None:
    anchor = torch.tensor([[0.0, 0, 10, 10]], device=device)
    point = torch.tensor([[5.0, 5, 5, 5]], device=device)
    assert encode_boxes(point, anchor).tolist() == [[0, 0, -INF, -INF]]
    assert encode_boxes(torch.tensor([[9.0, 0, 1, 10]], device=device), anchor).isnan()[0, 2]


def test_decoding_derivatives(device: torch.device) -> None:
    anchors = random_boxes(6, dtype=torch.float64).to(device)
    deltas = torch.randn(6, 4, dtype=torch.float64, device=device)
    deltas[0, 2:] = torch.tensor([5.0, 6.0])  # beyond the clamp
    deltas[1, 3] = -20
    deltas.requires_grad_()
    assert torch.autograd.gradcheck(lambda d: decode_boxes(d, anchors), (deltas,))
    assert torch.autograd.gradgradcheck(lambda d: decode_boxes(d, anchors), (deltas,))
    decode_boxes(deltas, anchors).sum().backward()
    assert (deltas.grad[0, 2:] == 0).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_decoding_gradient_has_the_dtype_of_the_deltas(
    dtype: torch.dtype, device: torch.device
) -> None:
    deltas = torch.randn(5, 4, device=device).to(dtype).requires_grad_()
    decode_boxes(deltas, random_boxes(5).to(device)).sum().backward()
    assert deltas.grad.dtype == dtype and deltas.grad.isfinite().all()


def test_compile(device: torch.device) -> None:
    def there_and_back(gt: Tensor, anchors: Tensor) -> tuple[Tensor, Tensor]:
        return decode_boxes(encode_boxes(gt, anchors), anchors), box_iou(gt, anchors)

    torch._dynamo.reset()
    compiled = torch.compile(there_and_back, fullgraph=True, dynamic=True, backend="aot_eager")
    for n in (3, 8):
        arguments = random_boxes(n).to(device), random_boxes(n).to(device)
        for a, b in zip(compiled(*arguments), there_and_back(*arguments), strict=True):
            assert torch.equal(a, b)
