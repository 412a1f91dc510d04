"""A trained detector made ready to detect: the same weights and detections, in less time."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from .backbones import TimmBody
from .resnet import FrozenBatchNorm
from .retinanet import RetinaNet
from .winograd import WinogradConv2d, use_winograd


def for_inference(model: RetinaNet) -> RetinaNet:
    """A copy of a model in eval mode, for `detect` and for calls with images alone.

    BatchNorm, frozen or not, is folded into the convolution before it; the weights lie as
    convolutions prefer (channels_last), and those of wide 3x3 convolutions in float32 on the CPU
    also transformed for Winograd's algorithm, which takes four times their memory. Detections
    differ from the model's by rounding alone. GroupNorm stays as it is, and so do the norms in a
    body of timm, which may hold activations, or run in another order than they stand in. What the
    model learns later, the copy does not; its state dict is not the model's.

    Raises ValueError for a model in training mode, whose statistics are not settled; so does the
    copy, if it is called in it.
    """
    ready = folded(model, "for_inference").to(memory_format=torch.channels_last)
    first = next(ready.parameters())
    if (first.device.type, first.dtype) == ("cpu", torch.float32):
        for module in use_winograd(ready).modules():
            if isinstance(module, WinogradConv2d):
                module.freeze()
    ready.register_forward_pre_hook(_refuse_training)
    return ready


def folded(model: RetinaNet, caller: str) -> RetinaNet:
    """A copy without gradients, its BatchNorm folded, but for that of timm's bodies. ValueError, in
    the name of the caller, for a model in training mode."""
    if model.training:
        raise ValueError(f"{caller}: expected a model in eval mode, call model.eval() first")
    copied = copy.deepcopy(model).requires_grad_(False)
    if not isinstance(copied.backbone.body, TimmBody):
        for module in list(copied.backbone.modules()):
            _fold_children(module)
    return copied


def _fold_children(module: nn.Module) -> None:
    """Folds each norm among the children into the convolution that stands, and runs, before it."""
    before: nn.Module | None = None
    for name, child in list(module.named_children()):
        if isinstance(child, nn.BatchNorm2d | FrozenBatchNorm):
            if not isinstance(before, nn.Conv2d) or before.out_channels != len(child.weight):
                raise ValueError(f"expected a convolution before the norm {name}, to fold it into")
            _fold(before, child)
            setattr(module, name, nn.Identity())
        before = child


def _fold(conv: nn.Conv2d, norm: nn.BatchNorm2d | FrozenBatchNorm) -> None:
    """Computed in float64: the result is rounded once."""
    mean, variance = norm.running_mean, norm.running_var
    if mean is None or variance is None:
        raise ValueError("expected a norm with running statistics, to fold it")
    scale = norm.weight.double() / (variance.double() + norm.eps).sqrt()
    weight = conv.weight.double() * scale[:, None, None, None]
    offset = 0 if conv.bias is None else conv.bias.double()
    bias = norm.bias.double() + (offset - mean.double()) * scale
    dtype = conv.weight.dtype
    conv.weight = nn.Parameter(weight.to(dtype), requires_grad=False)
    conv.bias = nn.Parameter(bias.to(dtype), requires_grad=False)


def _refuse_training(model: nn.Module, args: tuple[Tensor, ...]) -> None:
    if model.training:
        raise ValueError("made by for_inference, which cannot be trained: call eval() first")
