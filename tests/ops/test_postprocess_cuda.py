"""What only a GPU can show of retinanet_postprocess: the host never waits, a CUDA graph holds it,
and at full size it gives the CPU's bits."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import focaldet
from focaldet.ops import AnchorGrid, Anchors, retinanet_postprocess

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(
        focaldet._C_cuda is None or not torch.cuda.is_available(), reason="needs a GPU"
    ),
]

K, IMAGE = 7, (256, 384)
# The first level has more logits than its buffer has room, the second one fewer.
ANCHORS = AnchorGrid.torchvision(sizes=(24, 48)).at([(16, 24), (4, 6)], IMAGE)
# None passes, few do, all do, and all with one score.
LOGITS = {"none": (-100.0, 1.0), "few": (-7.0, 2.0), "all": (3.0, 1.0), "equal": (1.0, 0.0)}


def maps_of(mean: float, deviation: float, device: str = "cuda") -> list[Tensor]:
    channels = [ANCHORS.per_position * n for n in (K, 4)]
    maps = [torch.randn(2, c, *size) for c in channels for size in ANCHORS.feature_sizes]
    logits = [deviation * level + mean for level in maps[:2]]
    return [level.to(device) for level in (*logits, *maps[2:])]


def detect(maps: list[Tensor], sizes: Tensor, anchors: Anchors = ANCHORS) -> tuple[Tensor, ...]:
    half = len(maps) // 2
    return retinanet_postprocess(maps[:half], maps[half:], anchors, sizes)


@pytest.mark.parametrize("kind", LOGITS)
def test_the_host_never_waits(kind: str) -> None:
    maps, sizes = maps_of(*LOGITS[kind]), torch.tensor([IMAGE] * 2).cuda()
    detect(maps, sizes)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        detect(maps, sizes)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_a_graph_replays_with_other_maps() -> None:
    maps, sizes = maps_of(*LOGITS["few"]), torch.tensor([IMAGE] * 2).cuda()
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        detect(maps, sizes)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = detect(maps, sizes)
    for kind in (*LOGITS, "few"):
        for old, new in zip(maps, maps_of(*LOGITS[kind]), strict=True):
            old.copy_(new)
        sizes.copy_(torch.randint(100, 256, (2, 2)))
        graph.replay()
        want = detect([level.cpu() for level in maps], sizes.cpu())
        assert all(torch.equal(a.cpu(), b) for a, b in zip(results, want, strict=True))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("mean", [-9.0, -3.0, 1.0])
def test_full_size(mean: float, dtype: torch.dtype, layout: torch.memory_format) -> None:
    """A thousandth of the scores passes, half of them, nearly all: several passes on the way."""
    sizes = [(64, 84), (32, 42), (16, 21), (8, 11), (4, 6)]
    anchors = AnchorGrid.torchvision().at(sizes, (512, 672))
    maps = [
        (scale * torch.randn(2, 9 * channels, *size) + shift).to(dtype, memory_format=layout)
        for channels, scale, shift in ((80, 2.0, mean), (4, 0.3, 0.0))
        for size in sizes
    ]
    image_sizes = torch.tensor([(500, 672), (512, 640)])
    want = detect(maps, image_sizes, anchors)
    got = detect([level.cuda() for level in maps], image_sizes.cuda(), anchors)
    assert all(torch.equal(a.cpu(), b) for a, b in zip(got, want, strict=True))
