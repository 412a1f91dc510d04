"""A RetinaNet of another package made one of this: names, input channels, anchors and classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..checkpoint import Description
from ..errors import UserError
from ..models import RetinaNet
from . import coco, detectron2, mmdetection, torchvision
from .architecture import architecture_of
from .layouts import STYLES, Layout, choose, nearest
from .read import Source

LAYOUTS = {part.LAYOUT.name: part.LAYOUT for part in (torchvision, detectron2, mmdetection)}
EPS = 1e-5  # of BatchNorm, here and, but for torchvision's published v1, there
SHOWN = 4  # names in a message


class Converted(NamedTuple):
    """What `checkpoint.save_checkpoint` takes, and where it came from."""

    weights: dict[str, Tensor]
    description: Description
    layout: str


def convert(
    source: Source,
    layout: str = "auto",
    *,
    style: str | None = None,
    class_names: Sequence[str] | None = None,
    norm_eps: float = EPS,
) -> Converted:
    """The weights and the description of a `RetinaNet` that detects what the source's model does.

    layout: "torchvision", "detectron2", "mmdetection", or "auto". style: "caffe" or "pytorch", see
    `layouts.STYLES`; None: what the file says, or the layout's usual one. class_names: in label
    order; those of the file, or COCO's for 80 classes or torchvision's 91, unless given. Labels
    named "__background__" or "N/A", as torchvision names those not in use, are left out.
    norm_eps: the epsilon of the source's norms; 0 for the weights that torchvision publishes for
    v1. Raises `UserError` for names or shapes that are not such a RetinaNet's, with the layout that
    comes nearest.
    """
    for argument, word, choices in (
        ("layout", layout, ("auto", *LAYOUTS)),
        ("style", style, (None, *STYLES)),
    ):
        if word not in choices:
            raise ValueError(f"{argument}: expected one of {choices}, got {word!r}")
    known = choose(LAYOUTS, layout, source)
    if style is not None and known is LAYOUTS["torchvision"]:
        raise UserError(f"style {style}: torchvision's RetinaNets have only one; leave it out")
    weights = {
        ours: value.float() if value.is_floating_point() else value
        for name, value in source.weights.items()
        if (ours := known.rename(name))
    }
    preprocessing = known.preprocessing(source, style)
    arguments = architecture_of(weights, preprocessing.settings() | known.settings(source))
    _check(source, known, arguments, weights)

    if preprocessing.bgr:
        weights["backbone.body.conv1.weight"] = weights["backbone.body.conv1.weight"].flip(1)
    for name, value in weights.items():
        if name.endswith("running_var"):
            weights[name] = value + (norm_eps - EPS)
    names = _class_names(source, class_names, arguments["num_classes"])
    kept = [label for label, name in enumerate(names) if name not in coco.PLACEHOLDERS]
    weights |= _of_classes(weights, len(names), kept)
    names = [names[label] for label in kept]
    ids = [coco.IDS[name] for name in names] if set(names) <= coco.IDS.keys() else kept
    config = _on_meta(arguments | {"num_classes": len(kept)}).config
    return Converted(weights, Description(config, names, ids), known.name)


def _on_meta(arguments: dict[str, Any]) -> RetinaNet:
    """The model without memory for its weights."""
    with torch.device("meta"):
        return RetinaNet(**arguments)


def _check(
    source: Source, layout: Layout, arguments: dict[str, Any], weights: dict[str, Tensor]
) -> None:
    """Raises `UserError` unless these are the names and shapes of that detector."""
    expected = {n: tuple(t.shape) for n, t in _on_meta(arguments).state_dict().items()}
    missing = [name for name in expected if name not in weights]
    unexpected = [
        name
        for name in source.weights
        if (ours := layout.rename(name)) is None or (ours and ours not in expected)
    ]
    shapes = [
        f"{name} {tuple(weights[name].shape)} for {shape}"
        for name, shape in expected.items()
        if name in weights and tuple(weights[name].shape) != shape
    ]
    problems = [
        f"{len(names)} {what} ({', '.join(names[:SHOWN])}{', ...' if len(names) > SHOWN else ''})"
        for what, names in (
            ("missing, by torchvision's names", missing),
            ("unexpected", unexpected),
            ("of another shape", shapes),
        )
        if names
    ]
    if problems:
        near, share = nearest(LAYOUTS, source.weights)
        raise UserError(
            f"{source.path}: not a RetinaNet of {layout.name} on a {arguments['backbone']}: of its "
            f"tensors {'; '.join(problems)}. The nearest known layout is {near.name}, with "
            f"{share:.0%} of the {len(source.weights)} names; --layout chooses one"
        )


def _class_names(source: Source, given: Sequence[str] | None, count: int) -> list[str]:
    """A name for each label; `UserError` for another number of them."""
    usual = {len(coco.NAMES): coco.NAMES, len(coco.NAMES_91): coco.NAMES_91}
    names = source.class_names if given is None else given
    names = usual.get(count) if names is None else names
    if names is None:
        return [f"class {label}" for label in range(count)]
    if len(names) != count:
        raise UserError(
            f"{source.path}: expected {count} class names, in label order, got {len(names)}; a "
            'label that is not in use, such as a background at 0, is named "__background__"'
        )
    used = [name for name in names if name not in coco.PLACEHOLDERS]
    if len(set(used)) < len(used) or not used:
        raise UserError(f"{source.path}: expected class names that differ, got {', '.join(names)}")
    return list(names)


def _of_classes(weights: dict[str, Tensor], count: int, kept: list[int]) -> dict[str, Tensor]:
    """The last classification layer with the channels of some classes; channel a*K + k."""
    names = [f"head.classification_head.cls_logits.{part}" for part in ("weight", "bias")]
    return {
        name: torch.unflatten(weights[name], 0, (-1, count))[:, kept].flatten(0, 1)
        for name in names
    }
