"""retinanet_loss whose gradients take the place of the maps: no byte more than the maps.

A convolution's backward needs its input and weight, not its output, so that the memory of the
head's outputs is free once the loss has read them. Each map gives its memory away and is left
empty: who uses it again gets an error about its shape, not gradients in place of logits. An
operation that keeps a map for its own backward finds its version changed, and raises there.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .. import torch_ops as _ops
from ._gradient import times

# The schemas' arguments after the maps: the grid's three, gt_boxes, gt_labels, gt_splits, fg_iou,
# bg_iou, low_quality, alpha, gamma, class_alpha, box_loss, beta, normalizer, by_image.
Arguments = tuple[
    list[float], list[int], float, Tensor, Tensor, Tensor, float, float, str,
    float, float, Tensor | None, str, float, Tensor | None, bool,
]  # fmt: skip
Losses = tuple[Tensor, Tensor, Tensor]  # classification, box_regression, n_foreground


def refusal(maps: list[Tensor]) -> str | None:
    """Why these maps must keep their values; None if nothing but the loss needs them."""
    if torch.compiler.is_compiling() or any(map(_of_another_kind, maps)):
        return "compiled code and tensors of other kinds plan their memory themselves"
    if len({level.untyped_storage().data_ptr() for level in maps if level.numel()}) != sum(
        level.numel() > 0 for level in maps
    ):
        return "two maps share memory"
    for level in maps:
        if not level.requires_grad:
            return "a map that needs no gradient has no place for one"
        if level.grad_fn is None:
            return "a leaf keeps its values"
        if hasattr(level.grad_fn, "_saved_result"):
            return f"the operation that made them ({level.grad_fn.name()}) needs its output"
        if level._is_view() or _shared(level):
            return "another tensor shares their memory"
        if not (level.is_contiguous() or level.is_contiguous(memory_format=torch.channels_last)):
            return "they are neither contiguous nor channels_last"
    return None


def _of_another_kind(level: Tensor) -> bool:
    """A subclass, or what torch.func wraps around a tensor, whose memory nobody may ask for."""
    return type(level) is not Tensor or torch._C._functorch.is_functorch_wrapped_tensor(level)


def _shared(level: Tensor) -> bool:
    """Does another tensor, such as level.detach(), look at the same memory?"""
    count = getattr(torch._C, "_storage_Use_Count", None)  # not a public function
    storage = level.untyped_storage()  # counts as one itself
    return count is None or count(storage._cdata) > 2


def retinanet_loss(
    logits: list[Tensor],
    deltas: list[Tensor],
    arguments: Arguments,
    grad_scale: Tensor | None,
) -> Losses:
    """The losses; the maps are empty afterwards."""
    reason = refusal([*logits, *deltas])
    if reason:
        raise ValueError(f'mode: "overwrite" cannot have these maps, since {reason}')
    losses: Losses = _Overwrite.apply(len(logits), arguments, grad_scale, *logits, *deltas)
    for level in (*logits, *deltas):
        level.data = level.new_empty(0)
    return losses


class _Overwrite(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        levels: int,
        arguments: Arguments,
        grad_scale: Tensor | None,
        *maps: Tensor,
    ) -> Losses:
        gradients = [level.detach() for level in maps]
        for level in maps:
            torch.autograd.graph.increment_version(level)
        losses = _ops.retinanet_loss_overwrite(
            gradients[:levels], gradients[levels:], *arguments, grad_scale, grad_scale
        )
        ctx.levels = levels
        ctx.save_for_backward(grad_scale, *gradients)
        ctx.mark_non_differentiable(losses[2])
        ctx.set_materialize_grads(False)
        return losses

    @staticmethod
    def backward(
        ctx: Any, d_cls: Tensor | None, d_box: Tensor | None, _: None
    ) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise RuntimeError(
                'retinanet_loss: mode "overwrite" leaves no logits to differentiate the gradient '
                'with; use "recompute" (RetinaNet: keep_maps = True)'
            )
        scale, *gradients = ctx.saved_tensors
        factors = [d_cls] * ctx.levels + [d_box] * ctx.levels
        return None, None, None, *map(times, gradients, factors, [scale] * len(gradients))
