"""The weights of an image classifier for the body of a detector."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from ..errors import UserError
from ..models import RetinaNet
from ..models.backbones import TimmBody
from .architecture import variant_of
from .read import read_source

DOWNLOAD = "download"  # in place of a file


def load_body(model: RetinaNet, source: str | Path | Mapping[str, Tensor]) -> None:
    """Puts the weights of a classifier into the body of a detector; its last layer is left out.

    source: a file as `read_source` takes it, or a state dict: of torchvision's ResNet of the same
    depth, or for a body of timm of timm's model of that name; or, for a body of timm, "download":
    the weights that timm publishes for it. The model's norm may be "frozen". Raises `UserError`,
    before anything is changed, for the weights of another model.
    """
    if source == DOWNLOAD:
        if not isinstance(model.backbone.body, TimmBody):
            raise UserError(
                f"weights {DOWNLOAD!r}: for timm/<name> only; for a ResNet name a file of "
                "torchvision's weights"
            )
        model.backbone.body.load()
        return
    if isinstance(source, Mapping):
        name, weights = "state dict", dict(source)
    else:
        name, weights = str(source), read_source(source).weights
    body = model.backbone.body
    if isinstance(body, TimmBody):
        body.load(weights)
        return
    weights = {n: t for n, t in weights.items() if not n.startswith("fc.")}
    if "conv1.weight" not in weights:
        raise UserError(
            f"{name}: expected the names of torchvision's ResNets, conv1.weight among them, got "
            f"{', '.join(list(weights)[:3])}"
        )
    variant, config = variant_of(weights), model.config
    differing = _differing(weights, body.state_dict())
    if differing:
        raise UserError(
            f"{name}: the nearest ResNet is {variant}, of width {len(weights['conv1.weight'])}; "
            f"the model's is {config['backbone']} of width {config['width']} with the norm "
            f"{config['norm']}: {len(differing)} tensors differ, {differing[0]} among them; "
            "choose a model of that backbone and norm, or give the weights of its like"
        )
    body.load_state_dict(weights)


def _differing(given: dict[str, Tensor], expected: dict[str, Tensor]) -> list[str]:
    """Names that are in one only, or of another shape; batch counters may come or go."""
    shapes = [
        {n: t.shape for n, t in part.items() if not n.endswith("num_batches_tracked")}
        for part in (given, expected)
    ]
    return sorted(n for n in shapes[0] | shapes[1] if shapes[0].get(n) != shapes[1].get(n))
