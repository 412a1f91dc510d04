"""From the raw outputs of RetinaNet's head to its losses, and back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .. import reference
from .. import torch_ops as _ops
from . import _check, _overwrite
from ._gradient import times
from ._overwrite import Arguments, Losses
from .anchors import Anchors
from .choices import BOX_LOSSES, MODES, NORMALIZERS, BoxLoss, LowQuality, Mode, Normalizer
from .focal_loss import sigmoid_focal_loss
from .match import rules


def retinanet_loss(
    cls_logits: Sequence[Tensor],  # [B, A * K, H, W] by level
    box_deltas: Sequence[Tensor],  # [B, A * 4, H, W] by level
    anchors: Anchors,
    gt_boxes: Tensor,  # [T, 4]
    gt_labels: Tensor,  # int64 [T]
    gt_splits: Tensor,  # int64 [B + 1]
    *,
    alpha: float | Tensor = 0.25,
    gamma: float = 2.0,
    fg_iou: float = 0.5,
    bg_iou: float = 0.4,
    low_quality: LowQuality = "torchvision",
    box_loss: BoxLoss = "smooth_l1",
    beta: float = 0.1,
    normalizer: Normalizer | Tensor = "batch",
    mode: Mode | None = None,
    grad_scale: Tensor | None = None,  # []
) -> Losses:
    """RetinaNet's losses from the raw outputs of its head: matching, focal loss and box loss.

    One operator for all levels and images. No targets, anchors, IoU matrix or copies of the maps
    are made, and the host never waits for a GPU.

    Args:
        cls_logits, box_deltas: by level, `[B, A*K, H, W]` and `[B, A*4, H, W]`, class channel
            `a*K + k`, box channel `a*4 + i`. Contiguous and channels_last maps are read in place,
            others through a copy.
        anchors: `AnchorGrid.at(...)` for these feature sizes.
        gt_boxes, gt_labels, gt_splits: all boxes of the batch, [x1, y1, x2, y2] in pixels, labels
            in [0, K); image i owns rows gt_splits[i] to gt_splits[i + 1], rows past the last are
            padding. On CUDA, where values are not looked at unless FOCALDET_CHECK=1, the anchors of
            another label are ignored by the classification, and a box with a NaN matches none.
        alpha, gamma: of the focal loss.
        fg_iou, bg_iou, low_quality: see `match_anchors`.
        box_loss: of the foreground. "smooth_l1" (quadratic below beta) or "l1" of the encoded
            boxes; "giou", "diou" or "ciou" of the decoded ones, as torchvision.ops defines them.
        normalizer: what both losses are divided by. "batch": max(1, foreground anchors of the
            batch), as detectron2; "image": by image, then averaged, as torchvision; or a tensor of
            one number, e.g. averaged over ranks.
        mode: how the gradients are made, if any is wanted; S is the size of the maps.
            "save_gradient" (the default on the CPU): together with the losses, in one pass, 2 S of
            memory traffic, and kept beside the maps until the backward. That costs 2 S more if the
            incoming gradient is not known to be 1, or `grad_scale`.
            "recompute" (the default on CUDA): by a second pass in the backward, 3 S in all;
            nothing is kept.
            "overwrite": as save_gradient, over the maps' own memory. No memory is needed, and the
            maps are left empty. For the outputs of a convolution that nothing else uses; a
            ValueError says where that is not so. Not for torch.compile.
        grad_scale: with "save_gradient" and "overwrite", what the gradients are to be multiplied
            with right away: the incoming gradient of both losses, e.g. the scale of a GradScaler.
            That they are equal is taken on trust on CUDA, without FOCALDET_CHECK=1, and in
            compiled code.

    Returns:
        classification and box_regression, float32 scalars (float64 for float64 maps), and
        n_foreground, int64, not differentiable. Gradients come back in the layouts and dtypes of
        the maps. They may be differentiated again, slowly, but not with "overwrite".

    Raises:
        TypeError, ValueError, IndexError: saying what was expected and what came.

    Equivalent to `focaldet.reference.retinanet_loss`.
    """
    arguments = _arguments(
        cls_logits,
        box_deltas,
        anchors,
        gt_boxes,
        gt_labels,
        gt_splits,
        alpha,
        gamma,
        fg_iou,
        bg_iou,
        low_quality,
        box_loss,
        beta,
        normalizer,
    )
    logits, deltas = list(cls_logits), list(box_deltas)
    if mode is None:
        mode = "save_gradient" if logits[0].device.type == "cpu" else "recompute"
    _check.choice(mode, "mode", MODES)
    if grad_scale is not None:
        _check.scalar(grad_scale, "grad_scale")
        _check.same_device("retinanet_loss", cls_logits=logits[0], grad_scale=grad_scale)
        _check.no_gradient("retinanet_loss", grad_scale=grad_scale)
        if mode == "recompute":
            raise ValueError('grad_scale: of no use with mode "recompute"')
    wanted = torch.is_grad_enabled() and any(m.requires_grad for m in (*logits, *deltas))
    if not wanted or mode == "recompute":
        return _ops.retinanet_loss(logits, deltas, *arguments)
    if mode == "overwrite":
        return _overwrite.retinanet_loss(logits, deltas, arguments, grad_scale)
    results = _ops.retinanet_loss_and_gradient(logits, deltas, *arguments, grad_scale, grad_scale)
    return results[:3]


def _arguments(
    cls_logits: Sequence[Tensor],
    box_deltas: Sequence[Tensor],
    anchors: Anchors,
    gt_boxes: Tensor,
    gt_labels: Tensor,
    gt_splits: Tensor,
    alpha: float | Tensor,
    gamma: float,
    fg_iou: float,
    bg_iou: float,
    low_quality: LowQuality,
    box_loss: BoxLoss,
    beta: float,
    normalizer: Normalizer | Tensor,
) -> Arguments:
    """Checks everything; the schema's arguments after the maps."""
    classes = _check.head_maps(cls_logits, box_deltas, anchors)
    batch = cls_logits[0].shape[0]
    _check.tensor(gt_boxes, "gt_boxes", ("T", 4))
    _check.tensor(gt_labels, "gt_labels", (gt_boxes.shape[0],), (torch.int64,))
    _check.splits(gt_splits, gt_boxes.shape[0])
    if gt_splits.shape[0] != batch + 1:
        raise ValueError(f"gt_splits: expected shape [{batch + 1}], got {list(gt_splits.shape)}")
    _check.finite_boxes(_check.used(gt_boxes, gt_splits), "gt_boxes")
    _check.labels_in_range(_check.used(gt_labels, gt_splits), "gt_labels", classes, low=0)
    rules(fg_iou, bg_iou, low_quality)
    alpha, class_alpha = _check.balance(alpha, classes)
    gamma = _check.number(gamma, "gamma", low=0)
    _check.choice(box_loss, "box_loss", BOX_LOSSES)
    beta = _check.number(beta, "beta", low=0)
    given = None
    if isinstance(normalizer, Tensor):
        given = _check.scalar(normalizer, "normalizer")
    else:
        _check.choice(normalizer, "normalizer", NORMALIZERS)
    _check.no_gradient("retinanet_loss", gt_boxes=gt_boxes, alpha=class_alpha, normalizer=given)
    _check.same_device(
        "retinanet_loss",
        **_check.named_maps(cls_logits, box_deltas),
        gt_boxes=gt_boxes,
        gt_labels=gt_labels,
        gt_splits=gt_splits,
        alpha=class_alpha,
        normalizer=given,
    )
    cells, _, strides, offset = anchors.schema_arguments()
    return (
        *(cells, strides, offset, gt_boxes, gt_labels, gt_splits),
        *(float(fg_iou), float(bg_iou), low_quality, alpha, gamma, class_alpha),
        *(box_loss, beta, given, given is None and normalizer == "image"),
    )


# Fakes and derivatives ---------------------------------------------------------------------------


def _scalar_like(level: Tensor) -> Tensor:
    dtype = torch.float64 if level.dtype == torch.float64 else torch.float32
    return level.new_empty((), dtype=dtype)


def _gradient_like(level: Tensor) -> Tensor:
    last = level.is_contiguous(memory_format=torch.channels_last) and not level.is_contiguous()
    layout = torch.channels_last if last else torch.contiguous_format
    return torch.empty_like(level, memory_format=layout)


@torch.library.register_fake("focaldet::retinanet_loss")
def _(cls_logits: list[Tensor], box_deltas: list[Tensor], *_: Any) -> tuple[Tensor, ...]:
    count = cls_logits[0].new_empty((), dtype=torch.int64)
    return _scalar_like(cls_logits[0]), _scalar_like(box_deltas[0]), count


@torch.library.register_fake("focaldet::retinanet_loss_and_gradient")
def _(cls_logits: list[Tensor], box_deltas: list[Tensor], *_: Any) -> tuple[Any, ...]:
    count = cls_logits[0].new_empty((), dtype=torch.int64)
    return (
        *(_scalar_like(cls_logits[0]), _scalar_like(box_deltas[0]), count),
        *([_gradient_like(level) for level in maps] for maps in (cls_logits, box_deltas)),
    )


@torch.library.register_fake("focaldet::retinanet_loss_overwrite")
def _(cls_logits: list[Tensor], box_deltas: list[Tensor], *_: Any) -> tuple[Tensor, ...]:
    count = cls_logits[0].new_empty((), dtype=torch.int64)
    return _scalar_like(cls_logits[0]), _scalar_like(box_deltas[0]), count


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Any, ...]) -> None:
    logits, deltas, *rest = inputs
    tensors = [value for value in rest if isinstance(value, Tensor)]
    ctx.levels = len(logits)
    # The place of each tensor among the arguments, to put them back.
    ctx.rest = [None if isinstance(value, Tensor) else value for value in rest]
    ctx.places = [i for i, value in enumerate(rest) if isinstance(value, Tensor)]
    ctx.save_for_backward(*logits, *deltas, *tensors)
    ctx.set_materialize_grads(False)


def _saved(ctx: Any) -> tuple[list[Tensor], list[Tensor], list[Any], list[Tensor]]:
    """Logits, deltas, the other arguments, and what was saved behind them."""
    n, tensors = ctx.levels, list(ctx.saved_tensors)
    rest, last = list(ctx.rest), 2 * n + len(ctx.places)
    for place, tensor in zip(ctx.places, tensors[2 * n : last], strict=True):
        rest[place] = tensor
    return tensors[:n], tensors[n : 2 * n], rest, tensors[last:]


def _only(gradients: list[Tensor], incoming: Tensor | None) -> list[Tensor | None]:
    return list(gradients) if incoming is not None else [None] * len(gradients)


def _backward(ctx: Any, d_cls: Tensor | None, d_box: Tensor | None, *_: Any) -> tuple[Any, ...]:
    logits, deltas, rest = _saved(ctx)[:3]
    arguments: list[Any] = [*rest, d_cls, d_box]
    again = torch.is_grad_enabled()
    function = _differentiable if again else _ops.retinanet_loss_and_gradient
    d_logits, d_deltas = function(logits, deltas, *arguments)[3:]
    return _only(d_logits, d_cls), _only(d_deltas, d_box), *[None] * len(rest)


def _save_gradient(ctx: Any, inputs: tuple[Any, ...], output: tuple[Any, ...]) -> None:
    *_, n_foreground, d_logits, d_deltas = output
    _save(ctx, inputs, output)
    ctx.save_for_backward(*ctx.to_save, *d_logits, *d_deltas)
    ctx.mark_non_differentiable(n_foreground, *d_logits, *d_deltas)


def _saved_gradient(
    ctx: Any, d_cls: Tensor | None, d_box: Tensor | None, *_: Any
) -> tuple[Any, ...]:
    logits, deltas, rest, gradients = _saved(ctx)
    *arguments, cls_scale, box_scale = rest
    if torch.is_grad_enabled():
        d_logits, d_deltas = _differentiable(logits, deltas, *arguments, d_cls, d_box)[3:]
    else:
        d_logits = [times(g, d_cls, cls_scale) for g in gradients[: len(logits)]]
        d_deltas = [times(g, d_box, box_scale) for g in gradients[len(logits) :]]
    return _only(d_logits, d_cls), _only(d_deltas, d_box), *[None] * len(rest)


def _differentiable(
    logits: list[Tensor],
    deltas: list[Tensor],
    cells: list[float],
    strides: list[int],
    offset: float,
    gt_boxes: Tensor,
    gt_labels: Tensor,
    gt_splits: Tensor,
    fg_iou: float,
    bg_iou: float,
    low_quality: str,
    alpha: float,
    gamma: float,
    class_alpha: Tensor | None,
    box_loss: str,
    beta: float,
    normalizer: Tensor | None,
    by_image: bool,
    *incoming: Tensor | None,  # of both losses
) -> tuple[Any, ...]:
    """The gradients with a graph behind them: by the reference, which is plain torch."""
    sizes = [size for level in logits for size in level.shape[2:]]
    losses = reference.retinanet_loss(
        logits,
        deltas,
        Anchors.from_schema(cells, sizes, strides, offset),
        *(gt_boxes, gt_labels, gt_splits),
        alpha=alpha if class_alpha is None else class_alpha,
        gamma=gamma,
        fg_iou=fg_iou,
        bg_iou=bg_iou,
        low_quality=low_quality,
        box_loss=box_loss,
        beta=beta,
        normalizer=("image" if by_image else "batch") if normalizer is None else normalizer,
        focal_loss=sigmoid_focal_loss,
    )
    pairs = [
        (loss, grad)
        for loss, grad in zip(losses, incoming, strict=False)
        if grad is not None and loss.requires_grad
    ]
    maps = [*logits, *deltas]
    found = iter(
        torch.autograd.grad(
            [loss for loss, _ in pairs],
            [level for level in maps if level.requires_grad],
            [grad for _, grad in pairs],
            create_graph=True,
            allow_unused=True,
        )
    )
    gradients = [next(found) if level.requires_grad else None for level in maps]
    return *losses, gradients[: len(logits)], gradients[len(logits) :]


torch.library.register_autograd("focaldet::retinanet_loss", _backward, setup_context=_save)
torch.library.register_autograd(
    "focaldet::retinanet_loss_and_gradient", _saved_gradient, setup_context=_save_gradient
)
