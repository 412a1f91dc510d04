"""What only a GPU can show of retinanet_loss: the host never waits, and a CUDA graph holds it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import focaldet
from focaldet.ops import AnchorGrid, retinanet_loss

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(
        focaldet._C_cuda is None or not torch.cuda.is_available(), reason="needs a GPU"
    ),
]

K, IMAGE, SIZES = 7, (64, 96), [(8, 12), (4, 6)]
ANCHORS = AnchorGrid.torchvision(sizes=(12, 24)).at(SIZES, IMAGE)
MODES = {
    "save_gradient": {"grad_scale": 1.0},
    "recompute": {},
    "overwrite": {"grad_scale": 1.0},
}


def leaves() -> list[Tensor]:
    channels = [ANCHORS.per_position * n for n in (K, 4)]
    maps = [torch.randn(2, c, *size, device="cuda") for c in channels for size in SIZES]
    return [level.requires_grad_() for level in maps]


def truth(counts: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
    """Eight rows, whatever the counts: the rest is padding."""
    corner = torch.rand(8, 2) * 40
    boxes = torch.cat([corner, corner + 8 + torch.rand(8, 2) * 16], dim=1)
    splits = torch.tensor([0, counts[0], sum(counts)])
    return boxes.cuda(), torch.randint(K, (8,)).cuda(), splits.cuda()


def step(maps: list[Tensor], given: tuple[Tensor, ...], mode: str) -> list[Tensor]:
    """Losses and gradients."""
    outputs = [level * 1 for level in maps]
    options = {name: torch.full((), value, device="cuda") for name, value in MODES[mode].items()}
    losses = retinanet_loss(outputs[:2], outputs[2:], ANCHORS, *given, mode=mode, **options)
    return [*losses, *torch.autograd.grad(losses[0] + losses[1], maps)]


@pytest.mark.parametrize("mode", MODES)
def test_the_host_never_waits(mode: str) -> None:
    maps, given = leaves(), truth((3, 4))
    step(maps, given, mode)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        step(maps, given, mode)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("mode", MODES)
def test_a_graph_replays_with_other_boxes(mode: str) -> None:
    maps, given = leaves(), truth((3, 4))
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        step(maps, given, mode)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = step(maps, given, mode)
    for counts in ((3, 4), (0, 0), (8, 0), (0, 5)):
        for old, new in zip(given, truth(counts), strict=True):
            old.copy_(new)
        graph.replay()
        want = step(maps, given, mode)
        assert all(torch.equal(a, b) for a, b in zip(results, want, strict=True))
