"""retinanet_loss: the reference in float64, torchvision's heads, layouts and dtypes of the maps.

retinanet_postprocess is tested in test_postprocess.py.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from focaldet import reference
from focaldet.ops import AnchorGrid, count_foreground, retinanet_loss

K = 3
IMAGE = (64, 96)
SIZES = [(8, 12), (4, 6), (2, 3)]
GRID = AnchorGrid.torchvision(sizes=(12, 24, 48))
ANCHORS = GRID.at(SIZES, IMAGE)
BOXES = torch.tensor(
    [[4.0, 6, 30, 28], [40, 10, 90, 60], [50, 20, 62, 34], [2, 40, 40, 62], [60, 2, 76, 20]]
)
LABELS = torch.tensor([0, 2, 1, 1, 0])
SPLITS = torch.tensor([0, 2, 2, 5])  # the second image has no box
EPS = torch.finfo(torch.float32).eps


def maps(dtype: torch.dtype = torch.float32, batch: int = 3) -> tuple[list[Tensor], list[Tensor]]:
    cells = ANCHORS.per_position
    logits = [torch.randn(batch, cells * K, *size).mul(2).sub(2).to(dtype) for size in SIZES]
    deltas = [torch.randn(batch, cells * 4, *size).mul(0.5).to(dtype) for size in SIZES]
    return logits, deltas


def losses_and_gradients(
    function: Any,
    logits: list[Tensor],
    deltas: list[Tensor],
    truth: tuple[Tensor, Tensor, Tensor],
    **options: Any,
) -> tuple[tuple[Tensor, ...], list[Tensor], list[Tensor]]:
    """The losses, and the gradients of their sum by map of logits and of deltas."""
    leaves = [m.detach().clone().requires_grad_() for m in (*logits, *deltas)]
    n = len(logits)
    losses = function(leaves[:n], leaves[n:], ANCHORS, *truth, **options)
    gradients = torch.autograd.grad(losses[0] + losses[1], leaves)
    return losses, list(gradients[:n]), list(gradients[n:])


def check(
    logits: list[Tensor],
    deltas: list[Tensor],
    truth: tuple[Tensor, Tensor, Tensor],
    device: torch.device,
    **options: Any,
) -> tuple[Tensor, ...]:
    """Against the reference in float64; returns the losses."""

    def put(values: Any) -> list[Any]:
        return [v.to(device) if isinstance(v, Tensor) else v for v in values]

    on_device = dict(zip(options, put(options.values()), strict=True))
    got = losses_and_gradients(
        retinanet_loss, put(logits), put(deltas), tuple(put(truth)), **on_device
    )
    boxes, labels, splits = truth
    want = losses_and_gradients(
        reference.retinanet_loss,
        [m.double() for m in logits],
        [m.double() for m in deltas],
        (boxes.double(), labels, splits),
        **options,
    )
    for ours in got[0]:
        assert ours.device.type == device.type and ours.shape == ()
    assert got[0][2].dtype == torch.int64 and got[0][2].item() == want[0][2].item()

    # Each term is within 14 ulp at gamma = 2, then come a weight, a sum and a quotient.
    half = max(torch.finfo(m.dtype).eps if m.dtype.itemsize == 2 else 0 for m in logits)
    near = dict(check_dtype=False, rtol=20 * EPS)
    torch.testing.assert_close(got[0][0].cpu(), want[0][0], atol=0, **near)
    near["rtol"] += half
    tiny = 1e-37 if half == 0 else 2.0**-24  # below, gradients are subnormal
    for ours, exact in zip(got[1], want[1], strict=True):
        torch.testing.assert_close(ours.cpu(), exact, atol=tiny, **near)

    if options.get("box_loss") in ("giou", "diou", "ciou"):
        # Sides below 256 are off by up to 8 roundings; boxes are no smaller than 8, and a measure
        # of overlap, or its slope, changes by less than 4 for a side's relative change.
        off = slope = 4 * 8 * EPS * 256 / 8
    else:
        # Targets and deltas are below 10 and off by up to 8 roundings. A foreground anchor has
        # four, over at least one anchor; their slope is 1 / beta where the loss is quadratic.
        off = 8 * EPS * 10
        slope = off / 0.1
    torch.testing.assert_close(got[0][1].cpu(), want[0][1], atol=4 * off, **near)
    for ours, exact in zip(got[2], want[2], strict=True):
        torch.testing.assert_close(ours.cpu(), exact, atol=slope, **near)
    return got[0]


@pytest.mark.parametrize("low_quality", ["torchvision", "mmdet", "none"])
@pytest.mark.parametrize("normalizer", ["batch", "image", "tensor"])
@pytest.mark.parametrize("box_loss", ["smooth_l1", "l1", "giou", "diou", "ciou"])
def test_reference(box_loss: str, normalizer: str, low_quality: str, device: torch.device) -> None:
    scale = torch.tensor(7.5) if normalizer == "tensor" else normalizer
    options = dict(low_quality=low_quality, normalizer=scale, box_loss=box_loss)
    check(*maps(), (BOXES, LABELS, SPLITS), device, **options)


@pytest.mark.parametrize(
    "options",
    [
        dict(alpha=-1, gamma=0),
        dict(alpha=torch.tensor([0.2, 0.5, 0.8]), gamma=1),
        dict(fg_iou=0.3, bg_iou=0.3),
        dict(fg_iou=0.9, bg_iou=0.05, low_quality="none"),  # nearly everything is ignored
        dict(beta=1.0),
        dict(beta=0.0),
    ],
)
def test_options(options: dict[str, Any], device: torch.device) -> None:
    check(*maps(), (BOXES, LABELS, SPLITS), device, **options)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_maps(dtype: torch.dtype, device: torch.device) -> None:
    losses = check(*maps(dtype), (BOXES, LABELS, SPLITS), device)
    assert losses[0].dtype == losses[1].dtype == torch.float32


def test_logits_and_deltas_of_different_dtypes(device: torch.device) -> None:
    logits, deltas = maps()
    losses = check([m.bfloat16() for m in logits], deltas, (BOXES, LABELS, SPLITS), device)
    assert losses[0].dtype == losses[1].dtype == torch.float32


def test_alpha_by_class_in_both_layouts(device: torch.device) -> None:
    logits, deltas = maps()
    logits[0] = logits[0].contiguous(memory_format=torch.channels_last)
    alpha = torch.tensor([0.2, 0.5, 0.8])
    check(logits, deltas, (BOXES, LABELS, SPLITS), device, alpha=alpha)


@pytest.mark.parametrize("classes", [1, 80, 1203])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_any_number_of_classes(
    layout: torch.memory_format, classes: int, device: torch.device
) -> None:
    """More logits than a block of the kernels, rows and planes that cross its end."""
    _, deltas = maps()
    cells = ANCHORS.per_position
    logits = [torch.randn(3, cells * classes, *size).sub(3) for size in SIZES]
    logits = [level.contiguous(memory_format=layout) for level in logits]
    check(logits, deltas, (BOXES, LABELS % classes, SPLITS), device, fg_iou=0.6, bg_iou=0.2)


def check_derivatives(device: torch.device, fast: bool) -> None:
    """Against differences: along every input by itself, or (fast) along one random direction."""
    logits, deltas = ([m.to(device).double().requires_grad_() for m in ms] for ms in maps(batch=2))
    truth = BOXES.to(device), LABELS.to(device), torch.tensor([0, 2, 5], device=device)

    def total(*leaves: Tensor) -> Tensor:
        losses = retinanet_loss([leaves[0]], [leaves[1]], ANCHORS.levels()[2], *truth)
        return losses[0] + losses[1]

    assert torch.autograd.gradcheck(total, (logits[2], deltas[2]), fast_mode=fast)
    assert torch.autograd.gradgradcheck(total, (logits[2], deltas[2]), fast_mode=True)


def test_float64_derivatives(full_size_device: torch.device) -> None:
    check_derivatives(full_size_device, fast=False)


def test_float64_derivatives_in_one_direction(simt: torch.device) -> None:
    check_derivatives(simt, fast=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_layouts_give_the_same_bits(dtype: torch.dtype, device: torch.device) -> None:
    truth = BOXES.to(device), LABELS.to(device), SPLITS.to(device)
    logits, deltas = ([m.to(device) for m in ms] for ms in maps(dtype))
    want = losses_and_gradients(retinanet_loss, logits, deltas, truth)
    last = [
        [m.contiguous(memory_format=torch.channels_last) for m in maps] for maps in (logits, deltas)
    ]
    for other in (last, (logits, last[1]), ([torch.cat([m, m])[:3] for m in logits], deltas)):
        got = losses_and_gradients(retinanet_loss, *other, truth)
        for a, b in zip((*got[0], *got[1], *got[2]), (*want[0], *want[1], *want[2]), strict=True):
            assert torch.equal(a, b)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_gradients_come_back_in_the_layout_of_the_maps(
    layout: torch.memory_format, device: torch.device
) -> None:
    """Also to maps that are no leaves, as a head's outputs: nothing restrides those."""
    truth = BOXES.to(device), LABELS.to(device), SPLITS.to(device)
    outputs = [
        [(m.to(device).contiguous(memory_format=layout).requires_grad_() * 1) for m in ms]
        for ms in maps()
    ]
    losses = retinanet_loss(*outputs, ANCHORS, *truth)
    flat = [m for ms in outputs for m in ms]
    assert all(m.is_contiguous(memory_format=layout) for m in flat)
    for gradient in torch.autograd.grad(losses[0] + losses[1], flat):
        assert gradient.is_contiguous(memory_format=layout)


@pytest.mark.parametrize("normalizer", ["batch", "image"])
def test_no_boxes_at_all(normalizer: str, device: torch.device) -> None:
    nothing = torch.empty(0, 4), torch.empty(0, dtype=torch.int64), torch.zeros(4).long()
    losses = check(*maps(), nothing, device, normalizer=normalizer)
    assert losses[0] > 0 and losses[1] == 0 and losses[2] == 0
    empty = check(*maps(batch=0), (*nothing[:2], nothing[2][:1]), device, normalizer=normalizer)
    assert [loss.item() for loss in empty] == [0, 0, 0]


def test_ignored_anchors_have_no_gradient(device: torch.device) -> None:
    logits, deltas = ([m.to(device) for m in ms] for ms in maps())
    truth = BOXES.to(device), LABELS.to(device), SPLITS.to(device)
    options = dict(fg_iou=0.6, bg_iou=0.2)
    _, by_logits, by_deltas = losses_and_gradients(retinanet_loss, logits, deltas, truth, **options)
    match = reference.match_anchors(ANCHORS, BOXES, SPLITS, **options)
    cells = ANCHORS.per_position
    counted = reference.flatten_maps(by_logits, cells).cpu().ne(0)
    assert torch.equal(counted.any(dim=2), match != -2)
    assert torch.equal(counted.all(dim=2), match != -2)
    assert torch.equal(reference.flatten_maps(by_deltas, cells).cpu().ne(0).any(dim=2), match >= 0)


@pytest.mark.parametrize("box,label", [(0.0, 0), (-1.0, -1), (float("nan"), K)])
def test_padding_rows_change_nothing(box: float, label: int, device: torch.device) -> None:
    """Whatever they hold: their values are nobody's boxes, so nobody's mistake."""
    logits, deltas = ([m.to(device) for m in ms] for ms in maps())
    boxes = torch.cat([BOXES, torch.full((3, 4), box)]).to(device)
    labels = torch.cat([LABELS, torch.full((3,), label)]).to(device)
    splits = SPLITS.to(device)
    want = retinanet_loss(logits, deltas, ANCHORS, boxes[:5], labels[:5], splits)
    got = retinanet_loss(logits, deltas, ANCHORS, boxes, labels, splits)
    assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))


def test_deltas_of_background_do_not_matter(device: torch.device) -> None:
    """Not even a NaN, in the loss or in the gradients of the others."""
    truth = BOXES.to(device), LABELS.to(device), SPLITS.to(device)
    logits, deltas = ([m.to(device) for m in ms] for ms in maps())
    want = losses_and_gradients(retinanet_loss, logits, deltas, truth)
    wild = [torch.where(g == 0, torch.nan, m) for m, g in zip(deltas, want[2], strict=True)]
    got = losses_and_gradients(retinanet_loss, logits, wild, truth)
    assert torch.equal(got[0][1], want[0][1])
    assert all(torch.equal(a, b) for a, b in zip(got[2], want[2], strict=True))


def test_normalizers(device: torch.device) -> None:
    logits, deltas = ([m.to(device) for m in ms] for ms in maps())
    truth = BOXES.to(device), LABELS.to(device), SPLITS.to(device)
    batch = retinanet_loss(logits, deltas, ANCHORS, *truth)
    counts = count_foreground(ANCHORS, truth[0], truth[2])
    assert batch[2] == counts.sum() and not batch[2].requires_grad
    given = retinanet_loss(logits, deltas, ANCHORS, *truth, normalizer=counts.sum())
    assert torch.equal(given[0], batch[0]) and torch.equal(given[1], batch[1])
    image = retinanet_loss(logits, deltas, ANCHORS, *truth, normalizer="image")
    alone = [
        retinanet_loss(
            [m[i : i + 1] for m in logits],
            [m[i : i + 1] for m in deltas],
            ANCHORS,
            *truth[:2] if i != 2 else (truth[0][2:], truth[1][2:]),
            torch.tensor([0, int(SPLITS[i + 1] - SPLITS[i])], device=device),
        )
        for i in range(3)
    ]
    for part in (0, 1):
        mean = torch.stack([losses[part] for losses in alone]).mean()
        torch.testing.assert_close(image[part], mean)


def test_torchvision_heads(device: torch.device) -> None:
    pytest.importorskip("torchvision")
    from torchvision.models.detection.retinanet import RetinaNetHead

    cells = ANCHORS.per_position
    logits, deltas = ([m.to(device) for m in ms] for ms in maps())
    table = reference.generate_anchors(ANCHORS, device)
    match = reference.match_anchors(ANCHORS, BOXES, SPLITS).to(device)
    targets = [
        {"boxes": BOXES[a:b].to(device), "labels": LABELS[a:b].to(device)}
        for a, b in ((0, 2), (2, 2), (2, 5))
    ]
    head = RetinaNetHead(8, cells, K)
    outputs = {
        "cls_logits": reference.flatten_maps(logits, cells),
        "bbox_regression": reference.flatten_maps(deltas, cells),
    }
    theirs = head.compute_loss(targets, outputs, [table] * 3, list(match.long()))
    truth = BOXES.to(device), LABELS.to(device), SPLITS.to(device)
    ours = retinanet_loss(logits, deltas, ANCHORS, *truth, box_loss="l1", normalizer="image")
    # Their 1 - p_t loses digits (test_focal_loss.py), but not in the large terms of a sum.
    torch.testing.assert_close(ours[0], theirs["classification"], rtol=1e-5, atol=0)
    torch.testing.assert_close(ours[1], theirs["bbox_regression"], rtol=1e-5, atol=0)


def test_any_number_of_threads() -> None:
    results = []
    logits, deltas = maps()
    for threads in (1, 2, 5):
        torch.set_num_threads(threads)
        losses, by_logits, by_deltas = losses_and_gradients(
            retinanet_loss, logits, deltas, (BOXES, LABELS, SPLITS)
        )
        results.append([*losses, *by_logits, *by_deltas])
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@pytest.mark.parametrize("normalizer", ["batch", "image"])
def test_compile(normalizer: str, device: torch.device) -> None:
    def step(logits: list[Tensor], deltas: list[Tensor], *truth: Tensor) -> tuple[Tensor, ...]:
        doubled = [m * 2 for m in logits], [m * 2 for m in deltas]
        return retinanet_loss(*doubled, ANCHORS, *truth, normalizer=normalizer)

    torch._dynamo.reset()
    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    truth = BOXES.to(device), LABELS.to(device), SPLITS.to(device)
    outputs = [[m.to(device).requires_grad_() for m in ms] for ms in maps()]
    flat = [m for ms in outputs for m in ms]
    results = []
    for function in (compiled, step):
        losses = function(*outputs, *truth)
        results.append([*losses, *torch.autograd.grad(losses[0] + losses[1], flat)])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b)
