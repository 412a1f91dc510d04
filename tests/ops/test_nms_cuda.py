"""What only a GPU can show of nms_padded: the host never waits, a CUDA graph holds it, and blocks
that wait for each other come to an end."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import focaldet
from focaldet import reference
from focaldet.ops import nms, nms_padded

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(
        focaldet._C_cuda is None or not torch.cuda.is_available(), reason="needs a GPU"
    ),
]


def batch(images: int = 3, n: int = 700, groups: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    """boxes, scores, labels"""
    corner = torch.rand(images, n, 2) * 200
    boxes = torch.cat([corner, corner + 10 + torch.rand(images, n, 2) * 40], dim=2)
    labels = torch.randint(groups, (images, n))
    return boxes.cuda(), torch.rand(images, n).cuda(), labels.cuda()


@pytest.mark.parametrize("grouped", [False, True])
def test_the_host_never_waits(grouped: bool) -> None:
    boxes, scores, labels = batch()
    arguments = boxes, scores, labels if grouped else None, 0.5, 0.1
    nms_padded(*arguments)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        nms_padded(*arguments)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("grouped", [False, True])
def test_a_graph_replays_with_other_boxes(grouped: bool) -> None:
    given = batch()

    def suppress() -> tuple[Tensor, Tensor]:
        boxes, scores, labels = given
        return nms_padded(boxes, scores, labels if grouped else None, 0.5, 0.1)

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        suppress()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = suppress()
    for groups in (2, 1, 500):
        for old, new in zip(given, batch(groups=groups), strict=True):
            old.copy_(new)
        graph.replay()
        assert all(torch.equal(a, b) for a, b in zip(results, suppress(), strict=True))


def test_streams_side_by_side() -> None:
    """Each launch has tickets and words of its own, so that none waits for another's blocks."""
    images = [batch(1, 20_000, 1) for _ in range(4)]
    want = [nms_padded(*each, 0.5, 0.0, 20_000) for each in images]
    few = reference.nms_padded(*(t[:, :2000].cpu() for t in images[0]), 0.5)
    assert torch.equal(nms_padded(*(t[:, :2000] for t in images[0]), 0.5)[0].cpu(), few[0])
    streams = [torch.cuda.Stream() for _ in images]
    torch.cuda.synchronize()
    for _ in range(5):
        got = []
        for stream, each in zip(streams, images, strict=True):
            with torch.cuda.stream(stream):
                got.append(nms_padded(*each, 0.5, 0.0, 20_000))
        torch.cuda.synchronize()
        for mine, alone in zip(got, want, strict=True):
            assert all(map(torch.equal, mine, alone))


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_another_device_than_the_current_one() -> None:
    given = batch()
    want = nms_padded(*given, 0.5)
    got = nms_padded(*(t.to("cuda:1") for t in given), 0.5)
    assert torch.cuda.current_device() == 0 and got[0].device.index == 1
    assert all(torch.equal(a.cpu(), b.cpu()) for a, b in zip(got, want, strict=True))


def test_more_tiles_than_a_gpu_holds() -> None:
    """A chain through all of them: every other box is kept."""
    n = 1_000_000
    x = torch.arange(n, device="cuda", dtype=torch.float64) * 4
    zero = torch.zeros_like(x)
    boxes = torch.stack([x, zero, x + 10, zero + 10], dim=1)
    assert torch.equal(nms(boxes, -x, 0.3), torch.arange(0, n, 2, device="cuda"))
