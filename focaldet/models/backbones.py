"""The body of a detector by name: a ResNet of this package, or a model of timm."""

from __future__ import annotations

import difflib
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import UserError
from .resnet import VARIANTS, ResNet

TIMM = "timm/"
STRIDES = (4, 8, 16, 32)  # of C2 to C5
_CHOOSE = "choose a convolutional model, such as timm/resnet18"


def make_body(
    name: str, norm: str, width: int, stride_in: str, finest_level: int = 3
) -> ResNet | TimmBody:
    """Images [B, 3, H, W] to C3, C4, C5, whose channels are `out_channels`; with `finest_level=2`
    to C2, too.

    `norm`, `width` and `stride_in` are those of `ResNet`; a body of timm has its own, so that
    anything but their defaults is a ValueError there.
    """
    if not name.startswith(TIMM):
        return ResNet(name, norm, width, stride_in, finest_level)
    given = {"norm": (norm, "batch"), "width": (width, 64), "stride_in": (stride_in, "3x3")}
    for argument, (value, default) in given.items():
        if value != default:
            raise UserError(
                f"{argument}: applies to ResNets of this package, not to {name}, got {value!r}; "
                "leave it out"
            )
    return TimmBody(name.removeprefix(TIMM), finest_level)


def check_backbone(name: str) -> str:
    """The name, if it may be one; a model of timm is looked up when it is made."""
    if name in VARIANTS or name.startswith(TIMM):
        return name
    known = (*VARIANTS, "timm/<name of a model of timm>")
    raise UserError(f"backbone: expected one of {', '.join(known)}, got {name!r}")


def published_statistics(name: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of the images that the weights which timm publishes expect."""
    try:
        config = _timm().get_pretrained_cfg(_known(name.removeprefix(TIMM)))
    except RuntimeError as error:  # a tag, the part behind the dot, that timm does not know
        raise UserError(
            f"backbone {name}: {_first_line(error)}; leave out what stands behind the dot"
        ) from error
    return tuple(config.mean), tuple(config.std)


class TimmBody(nn.Module):
    """C3, C4, C5 of a convolutional model of timm, with random weights until `load` is called; with
    `finest_level=2` C2, too.

    The maps are those of `features_only=True` whose strides are 8, 16 and 32, or 4 to 32; ResNets,
    ConvNeXts, EfficientNets, RegNets, MobileNets, DenseNets and VGGs have them. Raises `UserError`,
    a ValueError, where timm is missing or has no such model, and for one that does not give these
    maps as [B, C, H, W] for images of any size: most transformers take one size only, and Swin's
    maps are [B, H, W, C].
    """

    def __init__(self, name: str, finest_level: int = 3) -> None:
        super().__init__()
        self.name = name
        self.strides: tuple[int, ...] = STRIDES[finest_level - 2 :]
        reductions = _create(name).feature_info.reduction()
        if not set(self.strides) <= set(reductions):
            raise UserError(
                f"backbone timm/{name}: expected feature maps of strides {self.strides}, it has "
                f"{tuple(reductions)}; {_CHOOSE}"
            )
        self.indices: tuple[int, ...] = tuple(map(reductions.index, self.strides))
        model = _create(name, out_indices=self.indices)
        self.model: nn.Module = model
        self.out_channels: tuple[int, ...] = tuple(model.feature_info.channels())
        self._probe()

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.model(x))

    def load(self, weights: dict[str, Tensor] | None = None) -> None:
        """Takes the weights of a state dict of timm's model, with whatever classifier, or, without
        one, those that timm publishes for it, which it downloads unless it has them. Raises
        `UserError`, before anything is changed, for the weights of another model."""
        if weights is not None:
            self._check(weights)
        given = {"state_dict": dict(weights)} if weights is not None else None
        loaded = _create(
            self.name, out_indices=self.indices, pretrained=True, pretrained_cfg_overlay=given
        )
        self.model.load_state_dict(loaded.state_dict())

    def _check(self, weights: dict[str, Tensor]) -> None:
        """timm takes what fits of a state dict and leaves the rest of the model as it was."""
        whole = _timm().create_model(self.name)
        heads = whole.pretrained_cfg.get("classifier") or ()
        heads = tuple(f"{head}." for head in ((heads,) if isinstance(heads, str) else heads))
        have, want = (
            {
                n: tuple(t.shape)
                for n, t in part.items()
                if not n.startswith(heads) and not n.endswith("num_batches_tracked")
            }
            for part in (weights, whole.state_dict())
        )
        differing = [n for n in have | want if have.get(n) != want.get(n)]
        if differing:
            name = differing[0]
            raise UserError(
                f"backbone timm/{self.name}: the weights of another model: {len(differing)} "
                f"tensors differ, {name} among them, which is {have.get(name, 'missing')} in the "
                f"weights and {want.get(name, 'unknown')} in the model; "
                f"give those of timm's {self.name}"
            )

    @torch.no_grad()
    def _probe(self) -> None:
        """Runs it once, for what a model does with a size is nowhere written down."""
        height, width = 64, 96
        expected = [
            [1, channels, height // stride, width // stride]
            for channels, stride in zip(self.out_channels, self.strides, strict=True)
        ]
        training = self.training
        try:
            first = next(self.parameters())
            maps = self.eval()(first.new_zeros(1, 3, height, width))
            got = str([list(level.shape) for level in maps])
        except (RuntimeError, AssertionError, ValueError) as error:
            got = str(error).splitlines()[0]
        self.train(training)
        if got != str(expected):
            raise UserError(
                f"backbone timm/{self.name}: expected maps {expected} of an image of "
                f"{height} x {width}, as a convolutional model gives them, got: {got}; {_CHOOSE}"
            )


def _timm() -> Any:
    try:
        import timm
    except ImportError as error:
        raise UserError(
            'backbone: timm/<name> needs the package timm: pip install "focaldet[timm]"'
        ) from error
    return timm


def _known(name: str) -> str:
    """The name of a model, if timm has it."""
    timm = _timm()
    if not timm.is_model(name):
        near = difflib.get_close_matches(name, timm.list_models(), n=3)
        raise UserError(
            f"backbone timm/{name}: timm {timm.__version__} has no model of this name; "
            + (f"the nearest are {', '.join(near)}" if near else "timm.list_models() names all")
        )
    return name


def _create(name: str, **options: Any) -> Any:
    """timm's model as features; its own errors in one line."""
    try:
        return _timm().create_model(_known(name), features_only=True, **options)
    except Exception as error:  # any of timm's, torch's and the hub's, which share no class
        raise UserError(
            f"backbone timm/{name}: timm cannot make it as features ({_first_line(error)}); "
            f"{_CHOOSE}"
        ) from error


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
