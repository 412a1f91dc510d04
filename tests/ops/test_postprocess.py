"""retinanet_postprocess: the reference, torchvision, and the corner cases of selection."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from focaldet import reference
from focaldet.ops import AnchorGrid, Anchors, nms, retinanet_postprocess

K = 4
IMAGE = (64, 96)
SIZES = [(4, 6), (2, 3), (1, 2)]
ANCHORS = AnchorGrid.torchvision(sizes=(12, 24, 48)).at(SIZES, IMAGE)
INF, NAN = math.inf, math.nan
Maps = tuple[list[Tensor], list[Tensor]]


@pytest.fixture
def exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """A sigmoid for the reference that is a function: torch's float32 one is not, it gives equal
    logits different scores in the vectorised part of a tensor and in the rest."""
    sigmoid = torch.sigmoid
    monkeypatch.setattr(torch, "sigmoid", lambda x: sigmoid(x.double()).to(x.dtype))


def coarse_maps(batch: int = 2, sizes: list[tuple[int, int]] = SIZES) -> Maps:
    """Logits in quarters, so that scores tie or are far apart, and deltas whose boxes are exact in
    float32 however they are computed: shifts in quarters, no scaling."""
    cells = ANCHORS.per_position
    logits = [torch.randn(batch, cells * K, *s).mul(8).round().div(4).sub(1) for s in sizes]
    deltas = [torch.randn(batch, cells, 4, *s).round().div(4) for s in sizes]
    for level in deltas:
        level[:, :, 2:] = 0
    return logits, [level.flatten(1, 2) for level in deltas]


def run(
    logits: list[Tensor],
    deltas: list[Tensor],
    device: torch.device,
    anchors: Anchors = ANCHORS,
    image_sizes: Any = None,
    **options: Any,
) -> tuple[Tensor, ...]:
    batch = len(logits[0])
    image_sizes = torch.tensor(image_sizes or [IMAGE] * batch, dtype=torch.int64).view(batch, 2)
    image_sizes = image_sizes.to(device)
    outputs = [m.to(device) for m in logits], [m.to(device) for m in deltas]
    boxes, scores, labels, counts = retinanet_postprocess(*outputs, anchors, image_sizes, **options)
    m = options.get("max_detections", 100)
    assert boxes.dtype == scores.dtype == torch.float32 and labels.dtype == torch.int64
    assert boxes.shape == (batch, m, 4) and scores.shape == labels.shape == (batch, m)
    past = torch.arange(m) >= counts.cpu()[:, None]
    assert (boxes.cpu()[past] == 0).all() and (scores.cpu()[past] == 0).all()
    assert (labels.cpu()[past] == -1).all() and (labels.cpu()[~past] >= 0).all()
    return boxes.cpu(), scores.cpu(), labels.cpu(), counts.cpu()


def check(logits: list[Tensor], deltas: list[Tensor], device: torch.device, **options: Any) -> int:
    """Equal to the reference, scores within 3 ulp (2 of ours, 1 of its); the number found."""
    got = run(logits, deltas, device, **options)
    anchors = options.pop("anchors", ANCHORS)
    image_sizes = options.pop("image_sizes", None) or [IMAGE] * len(logits[0])
    image_sizes = torch.tensor(image_sizes, dtype=torch.int64).view(-1, 2)
    want = reference.retinanet_postprocess(logits, deltas, anchors, image_sizes, **options)
    assert torch.equal(got[3], want[3])
    assert torch.equal(got[2], want[2])
    assert torch.equal(got[0], want[0])
    torch.testing.assert_close(got[1], want[1], rtol=3 * torch.finfo(torch.float32).eps, atol=0)
    return int(got[3].sum())


@pytest.mark.parametrize("max_detections", [0, 10, 1000])
@pytest.mark.parametrize("topk", [0, 1, 33, 200, 100_000])
def test_reference(topk: int, max_detections: int, exact: None, device: torch.device) -> None:
    """Every cut runs through ties."""
    found = check(*coarse_maps(), device, topk=topk, max_detections=max_detections)
    assert (found > 0) == (topk > 0 and max_detections > 0)


@pytest.mark.parametrize("iou_threshold", [0.0, 0.3, 0.5, 1.0])
@pytest.mark.parametrize("score_threshold", [-1.0, 0.0, 0.05, 0.5, 0.97, 1.0])
def test_thresholds(
    score_threshold: float, iou_threshold: float, exact: None, device: torch.device
) -> None:
    options = dict(score_threshold=score_threshold, iou_threshold=iou_threshold, topk=200)
    found = check(*coarse_maps(), device, **options)
    assert (found > 0) == (score_threshold < 0.99)


@pytest.mark.parametrize("convention", ["paper", "torchvision", "detectron2", "mmdetection"])
def test_continuous_deltas(convention: str, exact: None, device: torch.device) -> None:
    """Any shifts and scales: the same detections, up to roundings of their coordinates."""
    grid = getattr(AnchorGrid, convention)()
    sizes = [(6, 8), (4, 6), (2, 3), (1, 2), (1, 1)]
    anchors, cells = grid.at(sizes, IMAGE), grid.per_position
    logits = [torch.randn(2, cells * K, *s).mul(8).round().div(4).sub(1) for s in sizes]
    deltas = [torch.randn(2, cells * 4, *s).mul(0.5) for s in sizes]
    got = run(logits, deltas, device, anchors)
    want = reference.retinanet_postprocess(logits, deltas, anchors, torch.tensor([IMAGE] * 2))
    assert torch.equal(got[2], want[2]) and torch.equal(got[3], want[3])
    torch.testing.assert_close(got[1], want[1], rtol=1e-6, atol=0)
    # A centre, a half and two exponentials' roundings, of numbers up to 2000 pixels.
    torch.testing.assert_close(got[0], want[0], rtol=0, atol=8 * 2000 * 2.0**-23)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_dtypes_equal_float32(dtype: torch.dtype, device: torch.device) -> None:
    maps = [[m.to(dtype) for m in ms] for ms in coarse_maps()]
    got = run(*maps, device)
    want = run(*[[m.float() for m in ms] for ms in maps], device)
    assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_layouts(dtype: torch.dtype, device: torch.device) -> None:
    logits, deltas = ([m.to(dtype) for m in ms] for ms in coarse_maps(3))
    want = run(logits, deltas, device, topk=100)
    last = [
        [m.contiguous(memory_format=torch.channels_last) for m in ms] for ms in (logits, deltas)
    ]
    strided = [torch.stack([m, m], dim=-1)[..., 0] for m in logits]
    transposed = [m.transpose(2, 3).contiguous().transpose(2, 3) for m in deltas]
    misaligned = [torch.cat([m.new_zeros(1), m.flatten()])[1:].view(m.shape) for m in logits]
    wide = [torch.cat([m, m], dim=1)[:, : m.shape[1]] for m in logits]
    for maps in (
        last,
        (logits, last[1]),
        (strided, transposed),
        (misaligned, last[1]),
        (wide, deltas),
    ):
        got = run(*maps, device, topk=100)
        assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))
    # An image that is repeated without being copied.
    one = (
        [m[:1].expand(2, -1, -1, -1) for m in logits],
        [m[:1].expand(2, -1, -1, -1) for m in deltas],
    )
    for image in run(*one, device, topk=100)[1]:
        assert torch.equal(image, want[1][0])


def test_levels_with_few_or_no_candidates(exact: None, device: torch.device) -> None:
    logits, deltas = coarse_maps(3)
    logits[0].fill_(-20)
    logits[1].fill_(-20)
    logits[1][0, 5, 1, 2] = 2  # one
    logits[2][1].fill_(-20)  # the second image has nothing at all
    assert check(logits, deltas, device, topk=5) == 11
    assert run(logits, deltas, device, topk=5)[3].tolist() == [6, 0, 5]
    for level in logits:
        level.fill_(-20)
    assert check(logits, deltas, device) == 0


def one_cell(logits: list[float], deltas: list[float] | None = None) -> tuple[Maps, Anchors]:
    """A single anchor [0, 0, 20, 40] with these logits, in a map of one position."""
    by_class, by_side = torch.tensor(logits).float(), torch.tensor(deltas or [0, 0, 0, 0]).float()
    maps = [by_class.view(1, -1, 1, 1)], [by_side.view(1, 4, 1, 1)]
    return maps, Anchors((((0.0, 0.0, 20.0, 40.0),),), ((1, 1),), ((8, 8),), 0.0)


def test_a_score_equal_to_the_threshold_does_not_pass(device: torch.device) -> None:
    for dtype in (torch.float32, torch.bfloat16):
        maps, anchors = one_cell([0.0, 1.0, -1.0])
        maps = [[m.to(dtype) for m in ms] for ms in maps]
        labels = run(*maps, device, anchors, score_threshold=0.5)[2]
        assert labels[0, :2].tolist() == [1, -1]
        score = run(*maps, device, anchors, score_threshold=0.0)[1][0, 0].item()
        assert run(*maps, device, anchors, score_threshold=score)[3].item() == 0
        below = math.nextafter(score, 0)  # the same float32
        assert run(*maps, device, anchors, score_threshold=below)[3].item() == 0


def test_infinite_and_nan_logits(exact: None, device: torch.device) -> None:
    maps, anchors = one_cell([INF, -INF, NAN, 0.0])
    for threshold, labels in ((-1.0, [0, 3, 1]), (0.0, [0, 3]), (0.5, [0]), (1.0, [])):
        got = run(*maps, device, anchors, score_threshold=threshold, max_detections=4)
        assert got[2][0].tolist() == labels + [-1] * (4 - len(labels))
    assert run(*maps, device, anchors, score_threshold=-1.0)[1][0, :3].tolist() == [1, 0.5, 0]
    logits, deltas = coarse_maps()
    for level in logits:
        level[0, ::5], level[0, 1::5], level[1, 2::5] = INF, NAN, -INF
    check(logits, deltas, device, topk=50)


def test_nan_and_infinite_deltas(exact: None, device: torch.device) -> None:
    logits, deltas = coarse_maps()
    for level in deltas:
        level[:, 1::12], level[:, 4::12] = NAN, INF
        level[0, 7::12], level[1, 7::12] = -INF, NAN
    check(logits, deltas, device, topk=100)
    maps, anchors = one_cell([2.0, 1.0], [0, NAN, 0, 0])
    assert run(*maps, device, anchors)[3].item() == 0


def test_decoding_and_clipping(device: torch.device) -> None:
    cases = [
        ([0, 0, 0, 0], (30, 60), [0, 0, 20, 30]),  # clipped to height 30, width 60
        ([0.5, 0, 0, 0], (100, 100), [10, 0, 30, 40]),
        ([0, 0, 100, 0], (100, 1000), [0, 0, 635, 40]),  # exp is clamped: 62.5 times as wide
        ([0, 0, -INF, 0], (100, 100), [10, 0, 10, 40]),  # and not below
        ([-9, 0, 0, 0], (100, 100), [0, 0, 0, 40]),  # outside
        ([0, 0, 0, 0], (0, 0), [0, 0, 0, 0]),
    ]
    for deltas, size, box in cases:
        maps, anchors = one_cell([2.0], deltas)
        got = run(*maps, device, anchors, [size])
        assert got[3].item() == 1
        torch.testing.assert_close(got[0][0, 0], torch.tensor(box).float(), rtol=1e-6, atol=0)


def test_each_image_is_clipped_to_its_own_size(exact: None, device: torch.device) -> None:
    check(*coarse_maps(3), device, image_sizes=[(64, 96), (10, 90), (33, 1)], topk=200)


@pytest.mark.parametrize(
    "batch,sizes", [(0, SIZES), (2, [(0, 0)] * 3), (1, [(4, 6), (0, 6), (2, 0)])]
)
def test_empty(batch: int, sizes: list[tuple[int, int]], exact: None, device: torch.device) -> None:
    anchors = AnchorGrid.torchvision(sizes=(12, 24, 48)).at(sizes, IMAGE)
    found = check(*coarse_maps(batch, sizes), device, anchors=anchors)
    assert (found > 0) == (sizes[0] == (4, 6) and batch > 0)


def test_classes_do_not_suppress_each_other(device: torch.device) -> None:
    maps, anchors = one_cell([1.0, 3.0, 2.0])
    boxes, scores, labels, counts = run(*maps, device, anchors)
    assert counts.item() == 3 and labels[0, :3].tolist() == [1, 2, 0]
    assert (boxes[0, :3] == torch.tensor([0.0, 0, 20, 40])).all()


def test_ties_go_to_the_lower_flat_index(device: torch.device) -> None:
    """((y W + x) A + a) K + k, levels in order: neither the memory's order nor the channels'."""
    cells = (((0.0, 0, 4, 4), (1.0, 1, 9, 9)),)
    anchors = Anchors(cells * 2, ((2, 3), (1, 1)), ((50, 50), (900, 900)), 0.0)
    shapes = [(1, 2 * 2, 2, 3), (1, 2 * 2, 1, 1)]
    logits = [torch.ones(shape) for shape in shapes]
    deltas = [torch.zeros(1, 8, *shape[2:]) for shape in shapes]
    order = [
        (cell[0] + 50 * x, label)
        for y in range(2) for x in range(3) for cell in cells[0] for label in range(2)
    ]  # fmt: skip
    for topk, m in ((1000, 100), (1000, 9), (7, 100), (7, 9)):
        boxes, _, labels, counts = run(
            logits, deltas, device, anchors, [(2000, 2000)],
            topk=topk, max_detections=m, iou_threshold=1.0,
        )  # fmt: skip
        second = [(cell[0], label) for cell in cells[0] for label in range(2)]
        expected = (order[:topk] + second[:topk])[:m]
        assert counts.item() == len(expected)
        found = [(b[0].item(), int(k)) for b, k in zip(boxes[0], labels[0], strict=True)]
        assert found[: len(expected)] == expected


def separate_maps(batch: int) -> Maps:
    """Scores evenly spaced over (0, 0.9), the usual threshold half-way between two of them, in
    random order: implementations cannot differ about theirs."""
    cells = ANCHORS.per_position
    lengths = [cells * K * height * width for height, width in SIZES]
    n = sum(lengths)
    step = 0.9 / n
    scores = 0.05 + (torch.arange(n).double() - int(0.05 / step) + 0.5) * step
    logits = torch.stack([scores[torch.randperm(n)].logit().float() for _ in range(batch)])
    deltas = [torch.randn(batch, cells * 4, *size) * 0.5 for size in SIZES]
    levels = logits.split(lengths, dim=1)
    shapes = [(batch, cells * K, *size) for size in SIZES]
    return [m.view(shape) for m, shape in zip(levels, shapes, strict=True)], deltas


def ious_keep_away(boxes: Tensor, labels: Tensor, threshold: float, distance: float) -> bool:
    """Of the boxes of one class, from the threshold."""
    pairs = reference.box_iou(boxes.double(), boxes.double())[labels[:, None] == labels]
    return not ((pairs - threshold).abs() <= distance).any()  # NaN: both without area


def test_torchvision(
    device: torch.device, monkeypatch: pytest.MonkeyPatch, record_property: Callable[..., None]
) -> None:
    """Its post-processing, with its loop over the classes: the same detections in the same order,
    on images where no rounding decides. The others' share is in the report (--junit-xml)."""
    pytest.importorskip("torchvision")
    from torchvision.models.detection import RetinaNet, retinanet
    from torchvision.models.detection.anchor_utils import AnchorGenerator
    from torchvision.ops.boxes import _batched_nms_vanilla

    monkeypatch.setattr(retinanet.box_ops, "batched_nms", _batched_nms_vanilla)
    backbone = torch.nn.Identity()
    backbone.out_channels = 4
    generator = AnchorGenerator(((12,), (24,), (48,)), ((1.0,),) * 3)
    model = RetinaNet(backbone, K, anchor_generator=generator, topk_candidates=60)
    batch, cells = 12, ANCHORS.per_position
    logits, deltas = separate_maps(batch)
    outputs = {
        "cls_logits": [reference.flatten_maps([m], cells).to(device) for m in logits],
        "bbox_regression": [reference.flatten_maps([m], cells).to(device) for m in deltas],
    }
    table = [reference.generate_anchors(level, device) for level in ANCHORS.levels()]
    sizes = [(64 - i, 96 - 3 * i) for i in range(batch)]
    theirs = model.postprocess_detections(outputs, [table] * batch, sizes)
    options = dict(image_sizes=sizes, topk=60, max_detections=300)
    boxes, scores, labels, counts = run(logits, deltas, device, **options)
    candidates = run(logits, deltas, device, iou_threshold=1.0, **options)
    excluded = 0
    for image, their in enumerate(theirs):
        every = slice(candidates[3][image])
        if not ious_keep_away(candidates[0][image, every], candidates[2][image, every], 0.5, 1e-5):
            excluded += 1
            continue
        n = counts[image]
        assert n < candidates[3][image]
        assert torch.equal(labels[image, :n], their["labels"].cpu())
        torch.testing.assert_close(scores[image, :n], their["scores"].cpu(), rtol=1e-6, atol=0)
        torch.testing.assert_close(boxes[image, :n], their["boxes"].cpu(), rtol=0, atol=1e-3)
    record_property("excluded", f"{excluded} of {batch} images")
    assert excluded <= batch // 6


def test_one_class_holds_everything(exact: None, device: torch.device) -> None:
    logits, deltas = coarse_maps()
    for level in logits:
        of_class = torch.arange(level.shape[1]) % K == 1
        level[:, ~of_class] = -30.0
        level[:, of_class] += 4
    assert check(logits, deltas, device, topk=400, max_detections=400) > 50
    assert (run(logits, deltas, device)[2] <= 1).all()


@pytest.mark.parametrize("topk,max_detections", [(1000, 100), (40, 1000), (40, 7)])
def test_over_all_classes(
    topk: int, max_detections: int, exact: None, device: torch.device
) -> None:
    """A box suppresses those of other classes: the reference, and nms of all candidates."""
    outputs = coarse_maps()
    options = dict(topk=topk, class_agnostic=True)
    check(*outputs, device, max_detections=max_detections, **options)
    got = run(*outputs, device, max_detections=max_detections, **options)
    every = run(*outputs, device, max_detections=2000, iou_threshold=1.0, topk=topk)
    by_class = run(*outputs, device, max_detections=2000, topk=topk)
    for image, n in enumerate(every[3].tolist()):
        keep = nms(every[0][image, :n], every[1][image, :n], 0.5)
        assert len(keep) < by_class[3][image]
        keep = keep[:max_detections]
        assert got[3][image] == len(keep)
        for mine, all_of_them in zip(got[:3], every[:3], strict=True):
            assert torch.equal(mine[image, : len(keep)], all_of_them[image, keep])


def test_compile(device: torch.device) -> None:
    torch._dynamo.reset()
    compiled = torch.compile(retinanet_postprocess, fullgraph=True, backend="aot_eager")
    logits, deltas = ([m.to(device).requires_grad_() for m in ms] for ms in coarse_maps())
    sizes = torch.tensor([IMAGE] * 2, device=device)
    got, want = (f(logits, deltas, ANCHORS, sizes) for f in (compiled, retinanet_postprocess))
    assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))
    assert not any(tensor.requires_grad for tensor in got)


def test_export_with_any_height_and_width(device: torch.device) -> None:
    grid = AnchorGrid.torchvision(sizes=(32,))

    class Detect(torch.nn.Module):
        def forward(self, image: Tensor, logits: Tensor, deltas: Tensor) -> tuple[Tensor, ...]:
            size = tuple(image.shape[2:])
            anchors = grid.at([tuple(logits.shape[2:])], size)
            sizes = torch.tensor([[4096, 4096]], device=image.device)
            return retinanet_postprocess([logits], [deltas], anchors, sizes, topk=20)

    def example(height: int, width: int) -> tuple[Tensor, ...]:
        image = torch.empty(1, 3, 8 * height, 8 * width, device=device)
        logits, deltas = coarse_maps(1, [(height, width)])
        return image, logits[0].to(device), deltas[0].to(device)

    h, w, full_h, full_w = (torch.export.Dim(name, min=2) for name in ("h", "w", "fh", "fw"))
    dynamic = {2: full_h, 3: full_w}, {2: h, 3: w}, {2: h, 3: w}
    program = torch.export.export(Detect(), example(8, 12), dynamic_shapes=dynamic).module()
    for size in ((5, 3), (20, 31)):
        arguments = example(*size)
        for a, b in zip(program(*arguments), Detect()(*arguments), strict=True):
            assert torch.equal(a, b)
