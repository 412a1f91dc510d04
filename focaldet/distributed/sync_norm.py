"""BatchNorm with the statistics of the whole batch, wherever its images are.

torch has this for GPUs alone, so `SyncBatchNorm` is for the CPU. The ranks add up 2C + 1 numbers
forward, of x and x^2 and how many, and 2C backward, of the gradient g and of g x_hat. They do so in
float64: the variance E[x^2] - E[x]^2 then loses (mean / deviation)^2 of 2^53, not of float32's
2^24. What a rank computes by itself, before and after, it does with the kernels of nn.BatchNorm2d.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable


def synchronise(model: nn.Module) -> int:
    """Lets every BatchNorm2d of the model, in place, use the batch of all ranks; counts them.

    On GPUs they become torch's SyncBatchNorm. Those of timm that apply an activation, too, still
    do. Raises ValueError for other subclasses of nn.BatchNorm2d, whose forward is not known.
    """
    norms = {name: m for name, m in model.named_modules() if isinstance(m, nn.BatchNorm2d)}
    for name, norm in norms.items():
        kinds: tuple[type[nn.Module], type[nn.Module]] = (SyncBatchNorm, SyncBatchNormAct)
        if any(parameter.is_cuda for parameter in norm.parameters()):
            kinds = (nn.SyncBatchNorm, GpuSyncBatchNormAct)
            vars(norm)["process_group"] = None  # all ranks
        if type(norm) is nn.BatchNorm2d:
            _turn_into(norm, kinds[0])
        elif hasattr(norm, "drop") and hasattr(norm, "act"):
            _turn_into(norm, kinds[1])
        else:
            raise ValueError(
                f"{name}: expected nn.BatchNorm2d, or timm's BatchNormAct2d, got "
                f"{type(norm).__name__}, which cannot be synchronised"
            )
    return len(norms)


def _turn_into(module: nn.Module, kind: type[nn.Module]) -> None:
    """In place, so that its parameters, buffers, hooks and name stay."""
    module.__class__ = kind


class SyncBatchNorm(nn.BatchNorm2d):
    """nn.BatchNorm2d, but the batch that it takes the statistics of is that of all ranks.

    A rank's share may be empty. Parameters, buffers and results are those of nn.BatchNorm2d on the
    whole batch, but for rounding. Gradients of the parameters are of the rank's own share, to be
    added up like all others. Second derivatives are not supported.
    """

    @torch.compiler.disable
    def forward(self, input: Tensor) -> Tensor:  # [B, C, H, W]
        if not self.training and self.running_mean is not None:
            return super().forward(input)
        self._check_input_dim(input)
        output: Tensor
        output, mean, variance, count = _Normalise.apply(input, self.weight, self.bias, self.eps)
        if self.training and count > 0:
            self._track(mean, variance, float(count))
        return output

    @torch.no_grad()
    def _track(self, mean: Tensor, variance: Tensor, count: float) -> None:
        """Takes a batch into the running statistics; its variance, with Bessel's correction."""
        if self.running_mean is None or self.running_var is None:
            return
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        share = self.momentum
        if share is None:  # the plain mean over all batches
            share = 1.0 / float(self.num_batches_tracked)
        for running, new in (
            (self.running_mean, mean),
            (self.running_var, variance * (count / (count - 1))),
        ):
            running.copy_((1 - share) * running.double() + share * new)


class SyncBatchNormAct(SyncBatchNorm):
    """In the place of timm's BatchNormAct2d, whose parts it has."""

    drop: nn.Module
    act: nn.Module

    def forward(self, input: Tensor) -> Tensor:
        output: Tensor = self.act(self.drop(super().forward(input)))
        return output


class GpuSyncBatchNormAct(nn.SyncBatchNorm):
    """As SyncBatchNormAct, on a GPU."""

    drop: nn.Module
    act: nn.Module

    def forward(self, input: Tensor) -> Tensor:
        output: Tensor = self.act(self.drop(super().forward(input)))
        return output


class _Normalise(Function):
    """x, weight, bias, eps to y, and to the batch's mean, biased variance and count in float64."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        sums = torch.zeros(2 * x.shape[1] + 1, dtype=torch.float64)
        if x.numel():
            pixels = x.numel() // x.shape[1]
            mean, variance = _moments(x)
            sums = pixels * torch.cat([mean, variance + mean * mean, sums.new_ones(1)])
        _add_up(sums)
        count = sums[-1]
        if count == 1:
            raise ValueError(
                f"expected more than one pixel a channel over all ranks, got one: {list(x.shape)}"
            )
        mean, square = (sums[:-1] / count.clamp(min=1)).view(2, -1)
        variance = (square - mean * mean).clamp_(min=0)
        here = (mean.to(_precision(x)), variance.to(_precision(x)))
        ctx.save_for_backward(x, weight, *here)
        ctx.eps, ctx.count = eps, count
        ctx.mark_non_differentiable(mean, variance, count)
        output = F.batch_norm(x, *here, weight, bias, eps=eps) if x.numel() else torch.empty_like(x)
        return output, mean, variance, count

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        """With n pixels, g_x = a (g - sum(g) / n - x_hat sum(g x_hat) / n), a = weight / deviation:
        a normalisation of x by another weight and bias, to which a g is added."""
        x, weight, mean, variance = ctx.saved_tensors
        scale = torch.ones_like(mean) if weight is None else weight
        if x.numel():
            g = g.contiguous(memory_format=_layout(x))
            _, g_weight, g_bias = torch.ops.aten.native_batch_norm_backward(
                g, x, scale, mean, variance, None, None, False, ctx.eps, [False, True, True]
            )
        else:
            g_weight = g_bias = torch.zeros_like(mean)
        g_x = None
        if ctx.needs_input_grad[0]:
            sums = torch.stack([g_weight, g_bias]).double()
            _add_up(sums)
            a = scale.double() * (variance.double() + ctx.eps).rsqrt()
            by, plus = (-a * sums / ctx.count).to(mean)
            g_x = torch.empty_like(x)
            if x.numel():
                g_x = F.batch_norm(x, mean, variance, by, plus, eps=ctx.eps)
                g_x.addcmul_(g, a.to(mean)[None, :, None, None])
        needs = ctx.needs_input_grad
        return g_x, g_weight if needs[1] else None, g_bias if needs[2] else None, None


def _moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance over all but the channels, in float64."""
    unused = torch.zeros(2, x.shape[1], dtype=_precision(x))  # they decide in which precision
    mean, variance = torch.batch_norm_update_stats(x, unused[0], unused[1], 0.0)
    return mean.double(), variance.double()


def _precision(x: Tensor) -> torch.dtype:
    """Of statistics: float32 at least."""
    return torch.promote_types(x.dtype, torch.float32)


def _layout(x: Tensor) -> torch.memory_format:
    last = x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
    return torch.channels_last if last else torch.contiguous_format


def _add_up(sums: Tensor) -> None:
    if dist.is_available() and dist.is_initialized():
        dist.all_reduce(sums)
