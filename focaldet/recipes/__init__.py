"""Recipes: what to train, and how, as small files (TOML) that ship with the package.

A file has a line `about`, may have a line `base`, the recipe whose values it has where it gives no
others (a name, or a .toml file beside it), and the tables

- model: arguments of `focaldet.models.RetinaNet`, but for its classes and its anchors;
- anchors: `convention`, one of CONVENTIONS, and its arguments (see `focaldet.AnchorGrid`);
- data: of training: `flip`, one of FLIPS; `min_sizes`, of which each image draws one in place of
  the model's, or `scales`, of which it draws one that all limits of its size are multiplied by; and
  `crop`, the side of a random window in pixels;
- train: fields of `focaldet.train.Recipe`;
- expected: what somebody got with it, on which data, and where that is written; for people alone.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from ..data import Compose, HorizontalFlip, RandomCrop, RandomResize, Resize, ToTensor, VerticalFlip
from ..data.transforms import Transform
from ..errors import UserError
from ..models import RetinaNet
from ..models.backbones import TIMM, published_statistics
from ..models.fpn import level_strides
from ..ops import AnchorGrid
from ..train import Recipe
from .files import find, names, read

__all__ = ["CONVENTIONS", "DEFAULT", "FLIPS", "Configuration", "find", "load", "names"]

DEFAULT = "small"  # the recipe of `focaldet train`
CONVENTION = "torchvision"  # of anchors
FLIPS = {"both": (0.5, 0.5), "horizontal": (0.5, 0.0), "none": (0.0, 0.0)}  # horizontal, vertical
CONVENTIONS: dict[str, Callable[..., AnchorGrid]] = {
    "paper": AnchorGrid.paper,
    "torchvision": AnchorGrid.torchvision,
    "detectron2": AnchorGrid.detectron2,
    "mmdetection": AnchorGrid.mmdetection,
}

# The entries of the table data, with values such as they have.
DATA: dict[str, Any] = {"flip": "both", "min_sizes": [640, 800], "scales": [0.8, 1.25], "crop": 512}

Table = Mapping[str, Any]
# Values such as there are of what is usually None.
OPTIONAL: dict[str, Any] = {
    "max_scale": 2.0,
    "head_norm": "group",
    "lr": 1e-3,
    "weight_decay": 1e-4,
}
# What a value may be, by the type of the usual one.
_KINDS: dict[type, tuple[type, ...]] = {
    bool: (bool,),
    int: (int,),
    float: (int, float),
    str: (str,),
    list: (list, tuple),
    tuple: (list, tuple),
}


@dataclass(frozen=True)
class Configuration:
    """A recipe that was read: the tables of its file, see the module. `UserError` for an entry that
    is unknown, or whose value is of another kind."""

    name: str
    about: str
    model: Table = field(default_factory=dict)
    anchors: Table = field(default_factory=dict)
    data: Table = field(default_factory=dict)
    train: Table = field(default_factory=dict)
    expected: Table = field(default_factory=dict)

    def __post_init__(self) -> None:
        model = _defaults(RetinaNet)
        del model["anchor_grid"]
        self._check("anchors", {"convention": CONVENTION, **_defaults(self._convention)})
        self._check("model", model)
        self._check("data", DATA)
        self._check("train", {f.name: f.default for f in fields(Recipe)})
        if self.flip not in FLIPS:
            raise self._wrong(f"data.flip is {self.flip!r}", FLIPS, self.flip)
        if {"min_sizes", "scales"} <= self.data.keys():
            raise UserError(f"recipe {self.name}: data has min_sizes and scales; expected one")

    @property
    def flip(self) -> str:
        flip: str = self.data.get("flip", DATA["flip"])
        return flip

    def model_arguments(self) -> dict[str, Any]:
        """All of the model's, but for its classes and its anchors."""
        return {**_defaults(RetinaNet), **self.model}

    def with_(self, **tables: Table) -> Configuration:
        """A copy with other values in some of its tables: `with_(train={"epochs": 3})`. None leaves
        an entry out."""
        changed: dict[str, Any] = {
            name: {k: v for k, v in {**getattr(self, name), **table}.items() if v is not None}
            for name, table in tables.items()
        }
        return replace(self, **changed)

    def tables(self) -> dict[str, Table]:
        """What decides on the outcome."""
        return {name: getattr(self, name) for name in ("model", "anchors", "data", "train")}

    def make_model(self, num_classes: int) -> RetinaNet:
        """Raises `UserError` for values that the model does not take."""
        grid = self.anchor_grid()
        with self._named():
            return RetinaNet(num_classes, anchor_grid=grid, **self.model)

    def with_published_statistics(self) -> Configuration:
        """For a training that starts from trained weights: a copy with the mean and standard
        deviation of the images that those of its backbone expect."""
        backbone = self.model_arguments()["backbone"]
        if not backbone.startswith(TIMM):  # a ResNet: the model's own are those
            return self
        mean, std = published_statistics(backbone)
        return self.with_(model={"image_mean": mean, "image_std": std})

    def refuse_frozen(self, expected: str) -> None:
        """For a training that starts from random weights: raises `UserError` where the recipe would
        freeze norms that nobody has trained."""
        if self.model_arguments()["norm"] == "frozen":
            raise UserError(
                f"recipe {self.name}: model.norm is 'frozen', and training would start from random "
                f"weights; expected {expected}"
            )

    def anchor_grid(self) -> AnchorGrid:
        """With the strides of the model's levels, where the convention has strides and the recipe
        names none."""
        arguments = {k: v for k, v in self.anchors.items() if k != "convention"}
        if "strides" in _defaults(self._convention):
            strides = level_strides(self.model_arguments()["finest_level"])
            arguments = {"strides": strides, **arguments}
        with self._named():
            return self._convention(**arguments)

    def make_recipe(self) -> Recipe:
        with self._named():
            return Recipe(**self.train)

    def train_transform(self) -> Compose:
        with self._named():
            steps: list[Transform] = [self._train_resize()]
            if "crop" in self.data:
                steps.append(RandomCrop(self.data["crop"]))
            horizontal, vertical = FLIPS[self.flip]
            return Compose([*steps, HorizontalFlip(horizontal), VerticalFlip(vertical), ToTensor()])

    def eval_transform(self) -> Compose:
        with self._named():
            return Compose([self._resize(), ToTensor()])

    def _train_resize(self) -> Resize | RandomResize:
        if "min_sizes" in self.data:
            return RandomResize([self._resize(min_size=size) for size in self.data["min_sizes"]])
        if "scales" in self.data:
            return RandomResize([self._resize(scale) for scale in self.data["scales"]])
        return self._resize()

    def _resize(self, scale: float = 1.0, min_size: int | None = None) -> Resize:
        """As the model does; or by another size, or all of its limits times `scale`."""
        model = self.model_arguments()
        shortest = min(min_size or model["min_size"], model["max_size"])
        most = model["max_scale"]
        return Resize(
            round(shortest * scale),
            round(model["max_size"] * scale),
            None if most is None else most * scale,
        )

    @property
    def _convention(self) -> Callable[..., AnchorGrid]:
        name = self.anchors.get("convention", CONVENTION)
        if name not in CONVENTIONS:
            raise self._wrong(f"anchors.convention is {name!r}", CONVENTIONS, name)
        return CONVENTIONS[name]

    def _check(self, table: str, usual: Table) -> None:
        """Keys are among the usual ones, and values of their kinds."""
        for key, value in getattr(self, table).items():
            if key not in usual:
                raise self._wrong(f"{table}.{key} is unknown", usual, key)
            like = OPTIONAL.get(key, usual[key])
            kinds = _KINDS[type(like)]
            if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
                raise UserError(
                    f"recipe {self.name}: {table}.{key} is {value!r}; expected a value such as "
                    f"{like!r}"
                )

    def _wrong(self, what: str, allowed: Iterable[str], near: object) -> UserError:
        meant = get_close_matches(str(near), allowed, n=1)
        hint = f"; did you mean {meant[0]}?" if meant else ""
        expected = ", ".join(sorted(allowed))
        return UserError(f"recipe {self.name}: {what}; expected one of {expected}{hint}")

    @contextmanager
    def _named(self) -> Iterator[None]:
        """Errors of values become those of the recipe."""
        try:
            yield
        except UserError:
            raise
        except (ValueError, TypeError) as error:
            raise UserError(f"recipe {self.name}: {error}") from error


def load(name: str | Path) -> Configuration:
    """A recipe by its name, or from a file whose name ends with .toml. `UserError` for what is not
    there, or not a recipe."""
    return Configuration(**{"name": str(name), "about": "", **read(name)})


def _defaults(function: Callable[..., Any]) -> dict[str, Any]:
    parameters = inspect.signature(function).parameters.values()
    return {p.name: p.default for p in parameters if p.default is not p.empty}
