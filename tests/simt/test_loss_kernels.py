"""The kernels of retinanet_loss, called as the wrapper calls them, against the reference in
float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from focaldet import reference
from simt.cases import ANCHORS, DTYPES, RTOL, SIZES

pytestmark = pytest.mark.simt

_ops = torch.ops.focaldet
PLANAR, PACKED = torch.contiguous_format, torch.channels_last


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
