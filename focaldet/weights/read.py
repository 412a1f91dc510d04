"""Files of weights that other programs wrote: .pth, .safetensors and .pkl, to a state dict.

No file is trusted: `torch.load` runs with weights_only=True, and a .pkl is read by `arrays.py`.
"""

from __future__ import annotations

import argparse
import pickle
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..errors import UserError
from .arrays import read_arrays

# Where training scripts keep a state dict in what they save; averaged weights, which they evaluate,
# first: torchvision's, timm's, detectron2's and torchvision's, mmdetection's and Lightning's.
PLACES = ("model_ema", "state_dict_ema", "model", "state_dict")
_AGAIN = "copy or download it again"  # what helps against a truncated file


@dataclass(frozen=True)
class Source:
    """A state dict, and what its file says about it."""

    path: str  # for messages
    weights: dict[str, Tensor]
    class_names: tuple[str, ...] | None = None
    config: str = ""  # the text of mmdetection's configuration


def read_source(path: str | Path) -> Source:
    """Reads a state dict, or a checkpoint that holds one, from a .safetensors file, a .pkl of NumPy
    arrays, or, whatever its name, a file of `torch.save`. Raises `UserError` for any other."""
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file; expected weights as .pth, .safetensors or .pkl")
    read = {".safetensors": _read_safetensors, ".pkl": _read_pickle}.get(path.suffix, _read_torch)
    content = read(path)
    meta = content.get("meta") if isinstance(content, dict) else None
    names, config = _mmdetection_meta(meta) if isinstance(meta, dict) else (None, "")
    return Source(str(path), state_dict_in(content, path), names, config)


def state_dict_in(content: Any, path: str | Path) -> dict[str, Tensor]:
    """The state dict in what a training script saved, without the prefix of wrapped models."""
    if isinstance(content, dict):
        inner = next((content[place] for place in PLACES if place in content), content)
        if isinstance(inner, dict):
            weights = {name: _tensor(value) for name, value in inner.items()}
            weights.pop("n_averaged", None)  # AveragedModel's
            if weights and all(isinstance(value, Tensor) for value in weights.values()):
                wrapped = all(name.startswith("module.") for name in weights)
                return {n.removeprefix("module.") if wrapped else n: t for n, t in weights.items()}
    raise UserError(
        f"{path}: expected a state dict, tensors by name, or a dict with one under "
        f"{', '.join(PLACES)}; got {_describe(content)}"
    )


def _tensor(value: Any) -> Any:
    return torch.from_numpy(value) if isinstance(value, np.ndarray) else value


def _describe(content: Any) -> str:
    if isinstance(content, dict):
        return f"a dict with the keys {', '.join(map(str, list(content)[:5])) or '(none)'}"
    return f"a {type(content).__name__}"


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        with safe_open(str(path), framework="pt") as file:
            if "focaldet" in (file.metadata() or {}):
                raise UserError(f"{path}: is a checkpoint of focaldet already; use it as it is")
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise UserError(
            f"{path}: not a safetensors file, or a truncated one ({error}); {_AGAIN}"
        ) from error


def _read_pickle(path: Path) -> Any:
    try:
        return read_arrays(path.read_bytes())
    except ValueError as error:
        raise UserError(
            f"{path}: {error}; expected a pickle of NumPy arrays, as in detectron2's model zoo"
        ) from error


def _read_torch(path: Path) -> Any:
    try:
        # torchvision's training scripts save their arguments, too; a Namespace only holds values.
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL (\S+)", str(error))
        if found is None:
            raise UserError(
                f"{path}: not a file of torch.save, or a truncated one; {_AGAIN}"
            ) from error
        raise UserError(
            f"{path}: holds Python objects beside its tensors ({found[1]}), which are not read, as "
            "that may run any code; where you trust it, save its state dict alone: "
            'torch.save(torch.load("IN", weights_only=False)["state_dict"], "OUT")'
        ) from error
    except Exception as error:  # torch's own, of no common class, for what is no such file
        reason = (str(error).splitlines() or [""])[0]
        raise UserError(
            f"{path}: not a file of torch.save, or a truncated one ({reason}); {_AGAIN}"
        ) from error


def _mmdetection_meta(meta: dict[str, Any]) -> tuple[tuple[str, ...] | None, str]:
    """Class names and configuration, where mmdetection 3 and 2 write them."""
    dataset = meta.get("dataset_meta")
    named = {**meta, **dataset} if isinstance(dataset, dict) else meta
    names = named.get("classes", named.get("CLASSES"))
    config = meta.get("cfg", meta.get("config"))
    return (
        tuple(map(str, names)) if isinstance(names, list | tuple) else None,
        config if isinstance(config, str) else "",
    )
