"""retinanet_postprocess where levels have more candidates than places, and more logits than one
thread takes at a time."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from focaldet import reference
from focaldet.ops import AnchorGrid, retinanet_postprocess

K = 7
IMAGE = (192, 312)
SIZES = [(24, 39), (12, 20), (6, 10), (3, 5)]
ANCHORS = AnchorGrid.torchvision(sizes=(12, 24, 48, 96)).at(SIZES, IMAGE)
DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64]
LAYOUTS = [torch.contiguous_format, torch.channels_last]
Maps = tuple[list[Tensor], list[Tensor]]


def maps(batch: int = 1) -> Maps:
    """Logits of which most pass, in steps of 1/64, so that they are exact in every dtype but
    bfloat16 and many tie; shifts in quarters and no scaling, so that boxes are exact."""
    cells = ANCHORS.per_position
    logits = [torch.randn(batch, cells * K, *s).mul(64).round().div(64) for s in SIZES]
    deltas = [torch.randn(batch, cells, 4, *s).round().div(4) for s in SIZES]
    for level in deltas:
        level[:, :, 2:] = 0
    return logits, [level.flatten(1, 2) for level in deltas]


def detect(outputs: Maps, device: str | torch.device = "cpu", **options: float) -> list[Tensor]:
    sizes = torch.tensor([IMAGE] * len(outputs[0][0]), device=device)
    on_device = ([m.to(device) for m in ms] for ms in outputs)
    return [t.cpu() for t in retinanet_postprocess(*on_device, ANCHORS, sizes, **options)]


def same(got: list[Tensor], want: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(got, want, strict=True))


def sorted_along_memory(level: Tensor, descending: bool) -> Tensor:
    return level.flatten().sort(descending=descending).values.view(level.shape)


ORDERS: dict[str, Callable[[Tensor], Tensor]] = {
    "random": lambda level: level,
    "rising": lambda level: sorted_along_memory(level, False),  # each beats all before it
    "falling": lambda level: sorted_along_memory(level, True),
    "equal": lambda level: torch.ones_like(level),
    "two": lambda level: level.sign(),
    "few": lambda level: level - 4.5,
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("order", ORDERS)
def test_more_candidates_than_places(
    order: str,
    layout: torch.memory_format,
    full_size_device: torch.device,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whatever the order in which they are found, and with ties at every cut."""
    sigmoid = torch.sigmoid  # torch's float32 one is no function of the logit alone
    monkeypatch.setattr(torch, "sigmoid", lambda x: sigmoid(x.double()).to(x.dtype))
    logits, deltas = maps()
    logits = [ORDERS[order](level) for level in logits]
    outputs = [[m.contiguous(memory_format=layout) for m in ms] for ms in (logits, deltas)]
    for topk, max_detections, threshold in ((1, 9, 0.05), (50, 100, 0.05), (300, 500, -1.0)):
        options = dict(topk=topk, max_detections=max_detections, score_threshold=threshold)
        got = detect(outputs, full_size_device, **options)
        sizes = torch.tensor([IMAGE])
        want = reference.retinanet_postprocess(logits, deltas, ANCHORS, sizes, **options)
        assert torch.equal(got[3], want[3]) and torch.equal(got[2], want[2])
        assert torch.equal(got[0], want[0])
        torch.testing.assert_close(got[1], want[1], rtol=3 * 2.0**-23, atol=0)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_any_number_of_threads(dtype: torch.dtype, layout: torch.memory_format) -> None:
    outputs = [[m.to(dtype, memory_format=layout) for m in ms] for ms in maps(3)]
    for options in (dict(topk=100), dict(topk=1000, class_agnostic=True), dict(topk=10**9)):
        results = []
        for threads in (1, 2, 4):
            torch.set_num_threads(threads)
            results.append(detect(outputs, **options))
        assert same(results[1], results[0]) and same(results[2], results[0])


@pytest.mark.parametrize("dtype", DTYPES)
def test_any_strides(dtype: torch.dtype, full_size_device: torch.device) -> None:
    outputs = [[m.to(full_size_device, dtype) for m in ms] for ms in maps(2)]

    def every_second(m: Tensor) -> Tensor:
        return torch.stack([m, m * 0 - 9], dim=-1)[..., 0]

    views: dict[str, Callable[[Tensor], Tensor]] = {
        "channels_last": lambda m: m.contiguous(memory_format=torch.channels_last),
        "misaligned": lambda m: torch.cat([m.new_zeros(1), m.flatten()])[1:].view(m.shape),
        "columns apart": every_second,
        "channels apart": lambda m: every_second(m.permute(0, 2, 3, 1)).permute(0, 3, 1, 2),
        "columns first": lambda m: m.transpose(2, 3).contiguous().transpose(2, 3),
        "part of a plane": lambda m: torch.nn.functional.pad(m, (1, 2, 3, 1))[..., 3:-1, 1:-2],
        "images inside": lambda m: m.transpose(0, 1).contiguous().transpose(0, 1),
    }
    want = detect(outputs, full_size_device, topk=100)
    for name, view in views.items():
        viewed = [[view(m) for m in ms] for ms in outputs]
        assert all(map(torch.equal, viewed[0], outputs[0])), name
        assert same(detect(viewed, full_size_device, topk=100), want), name
    one = [[m[:1] for m in ms] for ms in outputs]
    repeated = [[m.expand(2, -1, -1, -1) for m in ms] for ms in one]
    twice = detect(repeated, full_size_device, topk=100)
    once = detect(one, full_size_device, topk=100)
    assert all(torch.equal(t[i], o[0]) for t, o in zip(twice, once, strict=True) for i in (0, 1))
    constant = [[m[:, :, :1, :1].expand(m.shape) for m in ms] for ms in one]
    copied = [[m.contiguous() for m in ms] for ms in constant]
    assert same(detect(constant, full_size_device), detect(copied, full_size_device))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_every_half_against_every_threshold(dtype: torch.dtype) -> None:
    """Half types are compared by their bits: every number, on both sides of many thresholds."""
    anchors = AnchorGrid.torchvision(sizes=(8,)).at([(1, 1)], (8, 8))
    cells = anchors.per_position
    every = torch.arange(-(2**15), 2**15).to(torch.int16).view(dtype)
    channels = -(-len(every) // cells) * cells
    logits = every.repeat(2)[:channels][torch.randperm(channels)].view(1, -1, 1, 1)
    deltas = torch.zeros(1, 4 * cells, 1, 1, dtype=dtype)
    options = dict(iou_threshold=1.0, topk=10**6, max_detections=2**16)
    sizes = torch.tensor([(8, 8)])
    for threshold in (-1.0, 0.0, 1e-30, 1e-4, 0.05, 0.3, 0.49999997, 0.5, 0.50000006, 0.9, 1.0):
        wide = retinanet_postprocess(
            [logits.float()], [deltas.float()], anchors, sizes, score_threshold=threshold, **options
        )
        narrow = retinanet_postprocess(
            [logits], [deltas], anchors, sizes, score_threshold=threshold, **options
        )
        assert same(list(narrow), list(wide)), threshold
        assert (wide[3] > 0) == (threshold < 1)


def test_workspace() -> None:
    """Where every logit is a candidate: at most 2 % of the logits, and 32 bytes for each place."""

    def peak() -> int:
        status = Path("/proc/self/status").read_text()
        return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) * 1024

    image, levels, topk = (800, 1344), 5, 1000
    sizes = [(-(-image[0] // s), -(-image[1] // s)) for s in (8, 16, 32, 64, 128)]
    anchors = AnchorGrid.torchvision().at(sizes, image)
    logits = [torch.rand(1, anchors.per_position * 91, *size) for size in sizes]
    deltas = [torch.zeros(1, anchors.per_position * 4, *size) for size in sizes]
    image_sizes = torch.tensor([image])
    detect(maps())  # what a first call takes once
    Path("/proc/self/clear_refs").write_text("5")  # sets the peak to what is resident now
    before = peak()
    *_, counts = retinanet_postprocess(logits, deltas, anchors, image_sizes, topk=topk)
    assert counts.item() == 100
    room = 0.02 * sum(level.nbytes for level in logits) + 32 * levels * topk
    assert peak() - before <= room
