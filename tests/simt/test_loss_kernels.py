"""The kernels of the losses, called as the wrappers call them, against the reference in float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from focaldet import reference
from focaldet.ops import AnchorGrid

pytestmark = pytest.mark.simt

_ops = torch.ops.focaldet
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
# Of a gradient that was rounded once; float32 has the bounds of DESIGN, below 20 ulp.
RTOL = {torch.float16: 2e-3, torch.bfloat16: 1.6e-2, torch.float32: 4e-6, torch.float64: 1e-12}
ATOL = {torch.float16: 1.2e-7, torch.bfloat16: 1e-12, torch.float32: 1e-12, torch.float64: 1e-15}
SIZES = [(6, 8), (3, 5), (0, 4), (2, 2), (1, 1)]  # planes in packs, odd ones, none, single numbers
GRID = AnchorGrid.torchvision(sizes=(12, 20, 30, 40, 60), aspect_ratios=(1.0,))
ANCHORS = GRID.at(SIZES, (48, 64))
PLANAR, PACKED = torch.contiguous_format, torch.channels_last


def close(got: Tensor, want: Tensor, dtype: torch.dtype, slack: float = 1) -> None:
    torch.testing.assert_close(
        got.double(), want.double(), rtol=slack * RTOL[dtype], atol=slack * ATOL[dtype]
    )


# Sigmoid focal loss -----------------------------------------------------------------------------


def weights(rows: int, classes: int) -> list[dict[str, Any]]:
    return [
        {"alpha": 0.25, "gamma": 2.0},
        {"alpha": 0.4, "gamma": 1.5, "class_weight": torch.rand(classes)},
        {"alpha": torch.rand(classes), "gamma": 2.0},
    ]


def schema(case: dict[str, Any], form: str = "focal") -> tuple[Any, ...]:
    alpha = case["alpha"]
    table = alpha if isinstance(alpha, Tensor) else None
    number = 0.25 if table is not None else alpha
    return number, case["gamma"], table, case.get("class_weight"), 0.0, form


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("classes", [1, 3, 80])
def test_sum_and_gradient(dtype: torch.dtype, classes: int, simt: torch.device) -> None:
    x, labels = (3 * torch.randn(37, classes)).to(dtype), torch.randint(-2, classes, (37,))
    for case in weights(37, classes):
        for targets in (labels, torch.rand(37, classes).to(dtype)):
            for divisor in (None, torch.tensor(7), torch.tensor(3.0)):
                arguments = x, targets, *schema(case)
                total, gradient = _ops.sigmoid_focal_loss_sum_and_gradient(*arguments, divisor)
                exact = x.clone().double().requires_grad_()
                wide = targets if targets.dtype == torch.int64 else targets.double()
                want = reference.sigmoid_focal_loss(exact, wide, reduction="sum", **case)
                want = want / (1 if divisor is None else divisor)
                want.backward()
                close(total, want.detach(), torch.float32 if dtype != torch.float64 else dtype)
                slack = 1 if dtype != torch.float32 else 4
                torch.testing.assert_close(
                    gradient.double(), exact.grad, rtol=slack * RTOL[dtype], atol=3e-7
                )
                assert gradient.dtype == dtype
                plain = _ops.sigmoid_focal_loss_sum(*arguments)
                if divisor is None:
                    assert torch.equal(plain, total)
                    one = torch.ones((), dtype=total.dtype)
                    again = _ops.sigmoid_focal_loss_backward(one, *arguments)
                    assert torch.equal(again, gradient)


@pytest.mark.parametrize("empty", [(0, 3), (3, 0)])
def test_the_sum_of_nothing(empty: tuple[int, int], simt: torch.device) -> None:
    labels = torch.zeros(empty[0], dtype=torch.int64)
    case = 0.25, 2.0, None, None, 0.0, "focal", torch.tensor(4.0)
    total, gradient = _ops.sigmoid_focal_loss_sum_and_gradient(torch.empty(empty), labels, *case)
    assert total == 0 and gradient.shape == empty


def relative(form: str, x: Tensor, t: Tensor, alpha: Tensor | float, gamma: float) -> Tensor:
    """Quality and varifocal loss of dense targets, in float64."""
    p = torch.sigmoid(x)
    cross_entropy = -t * torch.log(p) - (1 - t) * torch.log(1 - p)
    if form == "quality":
        balance = alpha * t + (1 - alpha) * (1 - t)
        return balance * (p - t).abs() ** gamma * cross_entropy
    return torch.where(t > 0, t, alpha * p**gamma) * cross_entropy


@pytest.mark.parametrize("form", ["quality", "varifocal"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_forms(form: str, dtype: torch.dtype, simt: torch.device) -> None:
    x, labels = (2 * torch.randn(29, 5)).to(dtype), torch.randint(-1, 5, (29,))
    soft = torch.where(torch.rand(29, 5) < 0.5, 0.0, torch.rand(29, 5)).to(dtype)
    for targets in (labels, soft):
        for gamma in (2.0, 1.5):
            for alpha in (0.75, torch.rand(5)):
                arguments = x, targets, *schema({"alpha": alpha, "gamma": gamma}, form)
                exact = x.clone().double().requires_grad_()
                dense = reference.dense_targets(exact, targets)
                table = alpha.double() if isinstance(alpha, Tensor) else alpha
                want = relative(form, exact, dense.double(), table, gamma)
                want.sum().backward()
                for got, exactly in (
                    (_ops.sigmoid_focal_loss(*arguments), want.detach()),
                    (_ops.sigmoid_focal_loss_sum_and_gradient(*arguments, None)[1], exact.grad),
                ):
                    tolerance = {"rtol": 4 * RTOL[dtype], "atol": 1e-6}
                    torch.testing.assert_close(got.double(), exactly, **tolerance)


# Matching, beyond tests/ops/test_match.py -------------------------------------------------------


def match(
    anchors: Any, boxes: Tensor, splits: list[int], low_quality: str, fg: float, bg: float
) -> Tensor:
    tensor = isinstance(anchors, Tensor)
    grid = ([], [], [], 0.0) if tensor else anchors.schema_arguments()
    arguments = (
        anchors if tensor else None,
        *grid,
        boxes,
        torch.tensor(splits),
        fg,
        bg,
        low_quality,
    )
    found = _ops.match_anchors(*arguments)
    assert torch.equal(_ops.count_foreground(*arguments), (found >= 0).sum(dim=1))
    return found


WILD = torch.tensor(
    [
        [10.0, 10, 40, 30],
        [20.0, 20, 20, 40],  # no width
        [50.0, 10, 20, 40],  # inverted
        [60.0, 40, 20, 10],  # twice: of positive area
        [torch.inf, torch.inf, torch.inf, torch.inf],
        [-torch.inf, -torch.inf, torch.inf, torch.inf],
        [0.0, 0, torch.inf, 20],
        [-1e20, -1e20, 1e20, 1e20],
        [torch.nan] * 4,
        [5.0, torch.nan, 30, 30],
        [-500.0, -500, 900, 900],
        [30.0, 10, 31, 12],
    ]
)


@pytest.mark.parametrize("low_quality", ["torchvision", "mmdet", "none"])
@pytest.mark.parametrize("thresholds", [(0.5, 0.4), (0.3, 0.0), (0.0, 0.0)])
def test_wild_boxes(low_quality: str, thresholds: tuple[float, float], simt: torch.device) -> None:
    table = reference.generate_anchors(ANCHORS)
    for splits in ([0, 12], [0, 0, 1, 5, 10, 12], [2, 4, 9]):
        rest = WILD, torch.tensor(splits), *thresholds, low_quality
        want = reference.match_anchors(ANCHORS, *rest)
        for anchors in (ANCHORS, table):
            assert torch.equal(match(anchors, WILD, splits, low_quality, *thresholds), want)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 3e6])
def test_wild_grids(scale: float, simt: torch.device) -> None:
    """Cells far off their position, of every size against the stride, inverted, not a number."""
    cells = torch.randn(2, 12, 4).mul(40 * scale)
    cells[..., 2:] = cells[..., :2] + torch.rand(2, 12, 2) * 60 * scale
    cells[0, 0] = torch.tensor([30.0, 0, 0, 30])
    cells[1, 1] = torch.nan
    cells[1, 2] = torch.tensor([-torch.inf, 0, torch.inf, 9])
    grid = cells.flatten().tolist(), [9, 13, 4, 40], [8, 8, 16, 3], 0.5
    corner = torch.rand(40, 2) * 120 * scale
    boxes = torch.cat([corner, corner + torch.rand(40, 2) * 70 * scale], dim=1)
    table = _ops.generate_anchors(torch.empty(0), *grid)
    splits = torch.tensor([0, 25, 40])
    for low_quality in ("torchvision", "mmdet"):
        rules = boxes, splits, 0.5, 0.4, low_quality
        got = _ops.match_anchors(None, *grid, *rules)
        assert torch.equal(got, reference.match_anchors(table, *rules))


def test_more_boxes_than_a_tile(simt: torch.device) -> None:
    corner = torch.rand(700, 2) * 60
    boxes = torch.cat([corner, corner + torch.rand(700, 2) * 30], dim=1)
    for low_quality in ("torchvision", "mmdet"):
        for bg in (0.4, 0.0):
            want = reference.match_anchors(
                ANCHORS, boxes, torch.tensor([0, 600, 700]), 0.5, bg, low_quality
            )
            assert torch.equal(match(ANCHORS, boxes, [0, 600, 700], low_quality, 0.5, bg), want)


def test_splits_that_are_garbage_read_nothing_else(simt: torch.device) -> None:
    for splits in ([-9, 2**62, -(2**63)], [5, 3, 9], [12, 13, 14], [3, 3, -1]):
        match(ANCHORS, WILD[:12].clone(), splits, "torchvision", 0.5, 0.4)


# The loss of raw maps ---------------------------------------------------------------------------


def head(
    dtype: torch.dtype, classes: int, layouts: Any, batch: int = 3
) -> tuple[list[Tensor], list[Tensor]]:
    per_position = len(ANCHORS.cell_anchors[0])
    maps: tuple[list[Tensor], list[Tensor]] = ([], [])
    for level, size in enumerate(SIZES):
        for kind, channels in enumerate((classes, 4)):
            values = 2 * torch.randn(batch, per_position * channels, *size)
            layout = layouts[(level + kind) % len(layouts)]
            maps[kind].append(values.to(dtype).contiguous(memory_format=layout))
    return maps


BOXES = torch.tensor(
    [
        [3.0, 4, 22, 20],
        [10.0, 10, 50, 44],
        [30.0, 20, 44, 30],
        [0.0, 0, 60, 47],
        [40.0, 8, 60, 30],
        [20.0, 20, 50, 40],
        [torch.nan] * 4,
    ]
)
SPLITS = torch.tensor([0, 2, 2, 6])  # the second image has no box; the last row is padding


def labels_of(classes: int) -> Tensor:
    return torch.tensor([0, classes - 1, classes + 3, classes // 2, -7, 0, 10**10])


def overlap_loss(kind: str, deltas: Tensor, anchors: Tensor, gt: Tensor) -> Tensor:
    from torchvision import ops

    function = {
        "giou": ops.generalized_box_iou_loss,
        "diou": ops.distance_box_iou_loss,
        "ciou": ops.complete_box_iou_loss,
    }
    return function[kind](reference.decode_boxes(deltas, anchors), gt)


def expected(
    logits: list[Tensor],
    deltas: list[Tensor],
    boxes: Tensor,
    labels: Tensor,
    splits: Tensor,
    box_loss: str = "smooth_l1",
    **kwargs: Any,
) -> tuple[Tensor, Tensor, Tensor, list[Tensor], list[Tensor]]:
    """Losses and gradients in float64."""
    x = [m.clone().double().requires_grad_() for m in logits]
    d = [m.clone().double().requires_grad_() for m in deltas]
    own = box_loss in ("giou", "diou", "ciou")
    cls, box, count = reference.retinanet_loss(
        x,
        d,
        ANCHORS,
        boxes.double(),
        labels,
        splits,
        box_loss="smooth_l1" if own else box_loss,
        **kwargs,
    )
    if own:
        flat = reference.flatten_maps(d, len(ANCHORS.cell_anchors[0]))
        found = reference.match_anchors(ANCHORS, boxes, splits)
        foreground = found >= 0
        row = (found + splits[:-1, None])[foreground]
        table = reference.generate_anchors(ANCHORS).double().expand(len(found), -1, 4)
        box = overlap_loss(box_loss, flat[foreground], table[foreground], boxes[row].double())
        box = box.sum() / foreground.sum().clamp(min=1)
    (cls + box).backward()
    return cls.detach(), box.detach(), count, [m.grad for m in x], [m.grad for m in d]


def arguments(
    logits: list[Tensor],
    deltas: list[Tensor],
    boxes: Tensor,
    labels: Tensor,
    splits: Tensor,
    *,
    alpha: float | Tensor = 0.25,
    gamma: float = 2.0,
    box_loss: str = "smooth_l1",
    beta: float = 0.1,
    normalizer: str | Tensor = "batch",
) -> tuple[Any, ...]:
    cells, _, strides, offset = ANCHORS.schema_arguments()
    table = alpha if isinstance(alpha, Tensor) else None
    number = 0.25 if table is not None else alpha
    given = normalizer if isinstance(normalizer, Tensor) else None
    rules = 0.5, 0.4, "torchvision", number, gamma, table
    by_image = isinstance(normalizer, str) and normalizer == "image"
    truth = boxes, labels, splits
    return logits, deltas, cells, strides, offset, *truth, *rules, box_loss, beta, given, by_image


def check(
    dtype: torch.dtype,
    classes: int = 3,
    layouts: Any = (PLANAR,),
    boxes: Tensor = BOXES,
    splits: Tensor = SPLITS,
    **kwargs: Any,
) -> None:
    logits, deltas = head(dtype, classes, layouts)
    labels = labels_of(classes)[: len(boxes)]
    want = expected(logits, deltas, boxes, labels, splits, **kwargs)
    case = arguments(logits, deltas, boxes, labels, splits, **kwargs)
    loose = dtype != torch.float64
    tolerance = {"rtol": 1e-5, "atol": 1e-6} if loose else {"rtol": 1e-10, "atol": 1e-12}
    got = _ops.retinanet_loss_and_gradient(*case, None, None)
    for g, w in zip(got[:2], want[:2], strict=True):
        assert g.dtype == (torch.float32 if loose else torch.float64) and g.dim() == 0
        torch.testing.assert_close(g.double(), w, **tolerance)
    assert got[2].dtype == torch.int64 and got[2] == want[2]
    for g, w, m in zip(got[3] + got[4], want[3] + want[4], logits + deltas, strict=True):
        assert g.dtype == dtype and g.stride() == m.stride()
        assert torch.equal(g == 0, w.to(dtype) == 0) or dtype == torch.float16
        rtol = max(10 * RTOL[dtype], 1e-9) if loose else 1e-9
        torch.testing.assert_close(g.double(), w, rtol=rtol, atol=1e-5 if loose else 1e-12)
    for g, w in zip(_ops.retinanet_loss(*case), got[:3], strict=True):
        assert torch.equal(g, w)

    # Incoming gradients, of whatever dtype, and over the maps' own memory.
    factors = torch.tensor(4.0, dtype=torch.float64), torch.tensor(-0.5)
    scaled = _ops.retinanet_loss_and_gradient(*case, *factors)
    _ops.retinanet_loss_overwrite(*case, *factors)
    for a, b in zip(scaled[:3], got[:3], strict=True):
        assert torch.equal(a, b)
    for kind, maps in enumerate((logits, deltas)):
        for g, w, over in zip(scaled[3 + kind], got[3 + kind], maps, strict=True):
            assert torch.equal(over, g)
            rtol = 2 * RTOL[dtype]
            torch.testing.assert_close(g, float(factors[kind]) * w, rtol=rtol, atol=1e-6)


LAYOUTS = {"planar": (PLANAR,), "packed": (PACKED,), "mixed": (PLANAR, PACKED, PACKED)}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_retinanet_loss(dtype: torch.dtype, layout: str, simt: torch.device) -> None:
    check(dtype, layouts=LAYOUTS[layout])
    check(dtype, layouts=LAYOUTS[layout], gamma=1.5, normalizer="image", box_loss="l1")


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("classes", [1, 80, 91])
def test_classes(classes: int, layout: str, simt: torch.device) -> None:
    check(torch.float32, classes, LAYOUTS[layout])
    check(torch.bfloat16, classes, LAYOUTS[layout], alpha=torch.rand(classes))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", ["giou", "diou", "ciou"])
def test_losses_of_overlap(kind: str, dtype: torch.dtype, simt: torch.device) -> None:
    pytest.importorskip("torchvision")
    check(dtype, layouts=LAYOUTS["mixed"], box_loss=kind)


@pytest.mark.parametrize("normalizer", [torch.tensor(7), torch.tensor(2.5, dtype=torch.float16)])
def test_a_given_normalizer(normalizer: Tensor, simt: torch.device) -> None:
    check(torch.float32, layouts=LAYOUTS["mixed"], normalizer=normalizer, beta=0.0)


def test_no_boxes(simt: torch.device) -> None:
    for normalizer in ("batch", "image"):
        none = torch.empty(0, 4), torch.zeros(4, dtype=torch.int64)
        check(torch.float32, boxes=none[0], splits=none[1], normalizer=normalizer)
        check(torch.float32, splits=torch.zeros(4, dtype=torch.int64), normalizer=normalizer)


def test_no_images(simt: torch.device) -> None:
    logits, deltas = head(torch.float32, 3, (PLANAR,), batch=0)
    truth = BOXES, labels_of(3), torch.tensor([0])
    losses = _ops.retinanet_loss_and_gradient(*arguments(logits, deltas, *truth), None, None)
    assert [float(x) for x in losses[:3]] == [0, 0, 0]


def test_a_label_that_is_no_class_is_ignored(simt: torch.device) -> None:
    logits, deltas = head(torch.float32, 3, (PLANAR,), batch=1)
    splits = torch.tensor([0, 1])
    found = reference.match_anchors(ANCHORS, BOXES[:1], splits)
    for label in (-1, 3):
        case = arguments(logits, deltas, BOXES[:1], torch.tensor([label]), splits)
        *_, count, d_logits, d_deltas = _ops.retinanet_loss_and_gradient(*case, None, None)
        flat = reference.flatten_maps(d_logits, len(ANCHORS.cell_anchors[0]))
        assert count > 0 and (flat[found != -1] == 0).all() and (flat[found == -1] != 0).all()
        assert (
            reference.flatten_maps(d_deltas, len(ANCHORS.cell_anchors[0]))[found >= 0] != 0
        ).any()


def test_strided_and_misaligned_maps(simt: torch.device) -> None:
    logits, deltas = head(torch.float32, 3, (PLANAR,))
    truth = BOXES, labels_of(3), SPLITS
    want = _ops.retinanet_loss_and_gradient(*arguments(logits, deltas, *truth), None, None)

    def strided(m: Tensor) -> Tensor:
        return torch.stack([m, m], dim=-1)[..., 1]

    def misaligned(m: Tensor) -> Tensor:
        shifted = torch.empty(m.numel() + 1)[1:].view(m.shape)
        return shifted.copy_(m)

    change: Callable[[Tensor], Tensor]
    for change in (strided, misaligned):
        maps = [change(m) for m in logits], [change(m) for m in deltas]
        got = _ops.retinanet_loss_and_gradient(*arguments(*maps, *truth), None, None)
        for g, w in zip(got[3] + got[4], want[3] + want[4], strict=True):
            assert torch.equal(g, w)
    with pytest.raises(RuntimeError, match="must be contiguous or channels_last"):
        maps = [strided(m) for m in logits], deltas
        _ops.retinanet_loss_overwrite(*arguments(*maps, *truth), None, None)


# Softmax focal loss -----------------------------------------------------------------------------


def softmax_focal(x: Tensor, labels: Tensor, alpha: Any, gamma: float) -> Tensor:
    valid = (labels >= 0) & (labels < x.shape[-1])
    t = torch.where(valid, labels, 0)
    log_p = torch.log_softmax(x, dim=-1).gather(-1, t[..., None])[..., 0]
    weight = alpha.double()[t] if isinstance(alpha, Tensor) else (1.0 if alpha < 0 else alpha)
    wrong = -torch.expm1(log_p)
    return torch.where(valid, weight * wrong.clamp(min=1e-300) ** gamma * -log_p, 0.0)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("classes", [1, 2, 31, 91])
def test_softmax_focal_loss(dtype: torch.dtype, classes: int, simt: torch.device) -> None:
    x = (3 * torch.randn(5, 7, classes)).to(dtype)
    labels = torch.randint(-2, classes + 2, (5, 7))
    for alpha, gamma in ((-1.0, 2.0), (0.25, 0.0), (torch.rand(classes), 1.3)):
        table = alpha if isinstance(alpha, Tensor) else None
        case = x, labels, 0.25 if table is not None else alpha, gamma, table
        exact = x.clone().double().requires_grad_()
        want = softmax_focal(exact, labels, alpha, gamma)
        got = _ops.softmax_focal_loss(*case)
        assert got.dtype == dtype and got.shape == labels.shape
        tolerance = {"rtol": 8 * RTOL[dtype], "atol": max(ATOL[dtype], 1e-14)}
        torch.testing.assert_close(got.double(), want.detach(), **tolerance)
        each = torch.rand(5, 7).to(dtype)
        for incoming in (torch.tensor(0.5), each):
            exact.grad = None
            (want * incoming.double()).sum().backward(retain_graph=True)
            got = _ops.softmax_focal_loss_backward(incoming, *case)
            assert got.dtype == dtype and got.shape == x.shape
            torch.testing.assert_close(got.double(), exact.grad, **tolerance)


def test_softmax_focal_loss_at_infinity(simt: torch.device) -> None:
    inf = torch.inf
    x = torch.tensor([[inf, 0.0, 1], [0.0, -inf, 1], [-inf, -inf, 1], [-inf, 0.0, inf], [90, 0, 0]])
    labels = torch.tensor([0, 1, 2, 1, 0])
    loss = _ops.softmax_focal_loss(x, labels, -1.0, 2.0, None)
    assert loss.tolist() == [0, inf, 0, inf, 0]
    gradient = _ops.softmax_focal_loss_backward(torch.tensor(1.0), x, labels, -1.0, 2.0, None)
    assert gradient.isfinite().all() and gradient[3].tolist() == [0, -1, 1]


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (4,)])
def test_softmax_focal_loss_of_few(shape: tuple[int, ...], simt: torch.device) -> None:
    x, labels = torch.randn(shape), torch.zeros(shape[:-1], dtype=torch.int64)
    loss = _ops.softmax_focal_loss(x, labels, 0.25, 2.0, None)
    assert loss.shape == labels.shape
    gradient = _ops.softmax_focal_loss_backward(torch.tensor(1.0), x, labels, 0.25, 2.0, None)
    assert gradient.shape == x.shape
