"""Recipes: what to train, and how, as small files (TOML) that ship with the package.

A file has a line `about`, and the tables

- model: arguments of `focaldet.models.RetinaNet`, but for its classes and its anchors;
- anchors: `convention`, one of CONVENTIONS, and its arguments (see `focaldet.AnchorGrid`);
- data: `flip`, one of FLIPS; and where training draws the size of its images, `min_sizes`, from
  which it draws what the model has one of, and `crop`, the side of a random window in pixels;
- train: fields of `focaldet.train.Recipe`;
- expected: what somebody got with it, on which data, and where that is written; for people alone.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from ..data import Compose, HorizontalFlip, RandomCrop, RandomResize, Resize, ToTensor, VerticalFlip
from ..data.transforms import Transform
from ..errors import UserError
from ..models import RetinaNet
from ..ops import AnchorGrid
from ..train import Recipe

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

DEFAULT = "small"
FLIPS = {"both": (0.5, 0.5), "horizontal": (0.5, 0.0), "none": (0.0, 0.0)}  # horizontal, vertical
CONVENTIONS: dict[str, Callable[..., AnchorGrid]] = {
    "paper": AnchorGrid.paper,
    "torchvision": AnchorGrid.torchvision,
    "detectron2": AnchorGrid.detectron2,
    "mmdetection": AnchorGrid.mmdetection,
}

Table = Mapping[str, Any]


@dataclass(frozen=True)
class Configuration:
    """A recipe that was read: the tables of its file. See the module."""

    name: str
    about: str
    model: Table = field(default_factory=dict)
    anchors: Table = field(default_factory=dict)
    data: Table = field(default_factory=dict)
    train: Table = field(default_factory=dict)
    expected: Table = field(default_factory=dict)

    def __post_init__(self) -> None:
        convention = self.anchors.get("convention", "torchvision")
        if convention not in CONVENTIONS:
            raise self._wrong(f"anchors.convention is {convention!r}", CONVENTIONS)
        if self.data.get("flip", "both") not in FLIPS:
            raise self._wrong(f"data.flip is {self.data['flip']!r}", FLIPS)
        for table, allowed in {
            "model": _parameters(RetinaNet) - {"num_classes", "anchor_grid"},
            "anchors": {"convention", *_parameters(CONVENTIONS[convention])},
            "data": {"flip", "min_sizes", "crop"},
            "train": {f.name for f in fields(Recipe)},
        }.items():
            for key in getattr(self, table):
                if key not in allowed:
                    raise self._wrong(f"{table}.{key} is unknown", allowed, key)

    def with_(self, **tables: Table) -> Configuration:
        """A copy with other values in some of its tables: `with_(train={"epochs": 3})`."""
        changed: dict[str, Any] = {n: {**getattr(self, n), **t} for n, t in tables.items()}
        return replace(self, **changed)

    def tables(self) -> dict[str, Table]:
        """What decides on the outcome."""
        return {name: getattr(self, name) for name in ("model", "anchors", "data", "train")}

    def make_model(self, num_classes: int) -> RetinaNet:
        """Raises `UserError` for values that the model does not take."""
        arguments = dict(self.anchors)
        convention = CONVENTIONS[arguments.pop("convention", "torchvision")]
        with _named(self.name):
            return RetinaNet(num_classes, anchor_grid=convention(**arguments), **self.model)

    def make_recipe(self) -> Recipe:
        with _named(self.name):
            return Recipe(**self.train)

    def train_transform(self) -> Compose:
        return self._transform(*FLIPS[self.data.get("flip", "both")], training=True)

    def eval_transform(self) -> Compose:
        return self._transform(0.0, 0.0, training=False)

    def _transform(self, horizontal: float, vertical: float, training: bool) -> Compose:
        model = {**_defaults(RetinaNet), **self.model}
        limits = model["max_size"], model["max_scale"]
        min_sizes, crop = (self.data.get(key) for key in ("min_sizes", "crop"))
        with _named(self.name):
            steps: list[Transform] = [Resize(min(model["min_size"], model["max_size"]), *limits)]
            if training and min_sizes:
                steps = [RandomResize(min_sizes, *limits)]
            if training:
                steps += [RandomCrop(crop)] if crop else []
                steps += [HorizontalFlip(horizontal), VerticalFlip(vertical)]
            return Compose([*steps, ToTensor()])

    def _wrong(self, what: str, allowed: Any, near: str = "") -> UserError:
        meant = get_close_matches(near, allowed, n=1)
        hint = f"; did you mean {meant[0]}?" if meant else ""
        return UserError(f"recipe {self.name}: {what}; expected one of {_listed(allowed)}{hint}")


def names() -> list[str]:
    """Of the recipes that ship with the package."""
    return sorted(path.stem for path in Path(__file__).parent.glob("*.toml"))


def load(name: str | Path) -> Configuration:
    """A recipe by its name, or from a file whose name ends with .toml. `UserError` for what is not
    there, or not a recipe."""
    path = Path(name)
    if path.suffix != ".toml":
        if str(name) not in names():
            near = get_close_matches(str(name), names(), n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise UserError(
                f"recipe {name}: unknown; expected one of {', '.join(names())}, or a file whose "
                f"name ends with .toml{hint}"
            )
        path = Path(__file__).parent / f"{name}.toml"
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"recipe {name}: cannot be read: {error.strerror}") from None
    except ValueError as error:  # not UTF-8, or not TOML
        raise UserError(f"recipe {name}: not TOML ({error})") from None
    tables = {f.name for f in fields(Configuration)} - {"name", "about"}
    for key, value in content.items():
        if key not in {"about", *tables} or isinstance(value, dict) == (key == "about"):
            raise UserError(
                f"recipe {name}: {key}; expected a text `about` and tables of {_listed(tables)}"
            )
    return Configuration(str(name), str(content.pop("about", "")), **content)


class _named:
    """Turns the errors of values into those of a recipe."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __enter__(self) -> None: ...

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, ValueError | TypeError) and not isinstance(error, UserError):
            raise UserError(f"recipe {self.name}: {error}") from error


def _parameters(function: Any) -> set[str]:
    return set(inspect.signature(function).parameters)


def _defaults(function: Any) -> dict[str, Any]:
    parameters = inspect.signature(function).parameters.values()
    return {p.name: p.default for p in parameters if p.default is not p.empty}


def _listed(names: Any) -> str:
    return ", ".join(sorted(names))
