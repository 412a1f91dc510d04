"""Checkpoints: one safetensors file whose header carries a JSON description and a hash.

A checkpoint is a single file, so that a single rename publishes it: a run killed at any moment
leaves the previous checkpoint whole. A run keeps two generations, of which the newest whole one is
taken: a disk may damage what no kill does. The model's tensors stand under their `state_dict` names
(`safetensors.torch.load_file` reads them without this package); what only `--resume` needs stands
beside them under names that start with `training/`. No pickle anywhere.
"""

from __future__ import annotations

import json
import warnings
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .errors import UserError
from .files import replacing
from .models import RetinaNet
from .tensor_file import DamagedCheckpoint, read, write

FORMAT = 1
LAST, PREVIOUS = "last.safetensors", "previous.safetensors"  # the generations of a run
_TRAINING = "training/"
_TENSOR = "$tensor"


class OlderCheckpointWarning(UserWarning):
    """The newest checkpoint is damaged, and the one before it was taken."""


@dataclass(frozen=True)
class Description:
    """What a checkpoint says about its weights: enough to rebuild the model and to use it."""

    model: dict[str, Any]  # RetinaNet.config
    class_names: list[str]  # in label order
    category_ids: list[int]  # label -> category id of the annotation file it was trained on
    epoch: int = 0  # epochs finished
    metrics: dict[str, Any] = field(default_factory=dict)  # of these weights, from `evaluate`


def save_checkpoint(
    path: str | Path,
    weights: dict[str, Tensor],
    description: Description,
    training: dict[str, Any] | None = None,
    *,
    keep: str | Path | None = None,
) -> None:
    """Writes weights, their description and, for resuming, the state of the training to `path`.

    `training` is any tree of dicts and lists with tensors and JSON values as leaves, such as an
    optimizer's `state_dict()`. The file appears under its name complete or not at all; the one
    that was there goes on as `keep`, if that is given.
    """
    tensors = dict(weights)
    text = {"format": FORMAT, **asdict(description)}
    if training is not None:
        text["training"] = _pack(training, _TRAINING.rstrip("/"), tensors)
    with replacing(path, keep) as temporary:
        write(temporary, tensors, json.dumps(text))


def save_generation(
    folder: str | Path,
    weights: dict[str, Tensor],
    description: Description,
    training: dict[str, Any] | None = None,
) -> None:
    """`save_checkpoint` as the folder's LAST, with the one before it kept as PREVIOUS."""
    folder = Path(folder)
    save_checkpoint(folder / LAST, weights, description, training, keep=folder / PREVIOUS)


def generations(folder: str | Path) -> list[Path]:
    """Those that there are in the folder, whole or not, the newest first."""
    paths = [Path(folder) / name for name in (LAST, PREVIOUS)]
    return [path for path in paths if path.exists()]


def load_newest(
    folder: str | Path, training: bool = False
) -> tuple[dict[str, Tensor], Description, dict[str, Any] | None, Path]:
    """The newest whole generation in the folder, as `load_checkpoint` gives it, and its path.

    Warns in one line where that is not LAST. Raises `UserError` where neither is whole, and where
    LAST is whole but of another version of the format: that is no reason to take an older one.
    """
    last, previous = (Path(folder) / name for name in (LAST, PREVIOUS))
    try:
        return *load_checkpoint(last, training), last
    except DamagedCheckpoint as error:
        damage = str(error)
    try:
        found = load_checkpoint(previous, training)
    except DamagedCheckpoint as error:
        raise DamagedCheckpoint(f"{damage}; and {error}") from error
    text = " ".join(f"{damage}; took {previous} instead".split())
    warnings.warn(text, OlderCheckpointWarning, stacklevel=2)
    return *found, previous


def load_checkpoint(
    path: str | Path, training: bool = False
) -> tuple[dict[str, Tensor], Description, dict[str, Any] | None]:
    """Reads `(weights, description, training state)` from a file that `save_checkpoint` wrote.

    The training state is None unless asked for and present. Raises `DamagedCheckpoint` for a file
    that is missing, truncated, altered, or not a focaldet checkpoint, and another `UserError` for
    one of another version.
    """
    tensors, header = read(Path(path))
    text = json.loads(header)
    if text.pop("format", None) != FORMAT:
        raise UserError(
            f"{path}: written by another version of focaldet; this one reads checkpoint "
            f"format {FORMAT}; use the version that wrote it"
        )
    state = text.pop("training", None)
    state = _unpack(state, tensors) if training and state is not None else None
    weights = {name: t for name, t in tensors.items() if not name.startswith(_TRAINING)}
    return weights, Description(**text), state


def load_model(
    path: str | Path, device: str | torch.device = "cpu"
) -> tuple[RetinaNet, Description]:
    """The trained model of a checkpoint, in eval mode on `device`, with its description."""
    weights, description, _ = load_checkpoint(path)
    model = RetinaNet.from_config(description.model)
    load_weights(model, weights, path)
    model = model.to(device).to(memory_format=torch.channels_last)
    return model.eval(), description


def load_weights(model: nn.Module, weights: dict[str, Tensor], path: str | Path) -> None:
    """`model.load_state_dict(weights)`, with the first difference named in one line."""
    expected = model.state_dict()
    for name in [*expected, *weights]:
        have = tuple(weights[name].shape) if name in weights else "nothing"
        want = tuple(expected[name].shape) if name in expected else "nothing"
        if have != want:
            raise UserError(
                f"{path}: a checkpoint of another model: {name} is {have} in the file, "
                f"{want} in the model; give a checkpoint of the same model"
            )
    model.load_state_dict(weights)


def _pack(tree: Any, prefix: str, tensors: dict[str, Tensor]) -> Any:
    """The tree as JSON values, its tensors moved to `tensors` under slash-joined names."""
    if isinstance(tree, Tensor):
        tensors[prefix] = tree
        return {_TENSOR: prefix}
    if isinstance(tree, dict):
        return {str(key): _pack(value, f"{prefix}/{key}", tensors) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [_pack(value, f"{prefix}/{i}", tensors) for i, value in enumerate(tree)]
    return tree


def _unpack(tree: Any, tensors: dict[str, Tensor]) -> Any:
    """Undoes `_pack`, but for tuples, which come back as lists, and dict keys, as strings."""
    if isinstance(tree, dict):
        if _TENSOR in tree:
            return tensors[tree[_TENSOR]]
        return {key: _unpack(value, tensors) for key, value in tree.items()}
    if isinstance(tree, list):
        return [_unpack(value, tensors) for value in tree]
    return tree
