"""Recipes as files: those that ship, what a file says over its base, and one line for a bad one."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import focaldet.recipes
from focaldet.data import HorizontalFlip, RandomCrop, RandomResize, Resize
from focaldet.data.transforms import Transform
from focaldet.errors import UserError
from focaldet.recipes import Configuration, load, names
from focaldet.train.optim import schedule_factor

FOLDER = Path(focaldet.recipes.__file__).parent
# Of arXiv:1708.02002, Table 1e: AP by depth and by the shorter side.
TABLE_1E = {
    50: {400: 30.5, 500: 32.5, 600: 34.3, 700: 35.1, 800: 35.7},
    101: {400: 31.9, 500: 34.4, 600: 36.0, 700: 37.1, 800: 37.8},
}

Write = Callable[..., str]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes a recipe; returns its name."""

    def write(text: str, name: str = "own") -> str:
        path = tmp_path / f"{name}.toml"
        path.write_text(text)
        return str(path)

    return write


def drawn(setup: Configuration, kind: type) -> list[Transform]:
    return [step for step in setup.train_transform().transforms if isinstance(step, kind)]


def test_names_are_files_and_differ() -> None:
    stems = [path.stem for path in FOLDER.rglob("*.toml")]
    assert sorted(names()) == sorted(stems) and len(set(stems)) == len(stems)


@pytest.mark.parametrize("name", names())
def test_a_file_says_what_it_is_and_where_its_numbers_are_from(name: str) -> None:
    setup = load(name)
    assert setup.about and setup.make_recipe().epochs > 0
    published = name.startswith(("paper-", "detectron2-", "torchvision-"))
    assert bool(setup.expected) == published
    if published:
        assert setup.expected.keys() == {"AP", "data", "source", "run_here"}
        assert 0 < setup.expected["AP"] < 1 and setup.expected["run_here"] is False


@pytest.mark.parametrize("depth", TABLE_1E)
def test_the_papers_sizes(depth: int) -> None:
    for size, ap in TABLE_1E[depth].items():
        setup = load(f"paper-r{depth}-{size}")
        assert setup.expected["AP"] == pytest.approx(ap / 100)
        model = setup.model_arguments()
        assert (model["backbone"], model["min_size"]) == (f"resnet{depth}", size)
        assert model["max_size"] == pytest.approx(1333 * size / 800, abs=0.6)
        assert (model["alpha"], model["gamma"], model["low_quality"]) == (0.25, 2.0, "none")


def test_schedules_are_the_published_ones() -> None:
    """Where the rate falls, as steps of the run that it is said to be; within a thousandth."""
    for name, total, milestones in (
        ("paper-r50-600", 90_000, (60_000, 80_000)),
        ("detectron2-r50-3x", 270_000, (210_000, 250_000)),
        ("torchvision-r50-v2", 26_000, (16_000, 22_000)),
    ):
        recipe = load(name).make_recipe()
        rates = [
            schedule_factor(recipe.schedule, step, total, recipe.warmup, recipe.milestones)
            for milestone in milestones
            for step in (int(milestone * 0.999), int(milestone * 1.001))
        ]
        assert rates == pytest.approx([1, 0.1, 0.1, 0.01]), name


def test_a_base_is_read_where_a_file_is_silent(write: Write) -> None:
    write('about = "a"\nbase = "modern"\n[train]\nepochs = 7\n[expected]\nAP = 0.5', "first")
    own = load(
        write('base = "first.toml"\n[model]\nalpha = 0.5\n[anchors]\nsizes = [8,9,10,11,12]')
    )
    modern = load("modern")
    assert own.model == {**modern.model, "alpha": 0.5}
    assert own.train == {**modern.train, "epochs": 7}
    assert own.anchors == {**modern.anchors, "sizes": [8, 9, 10, 11, 12]}
    assert own.data == modern.data
    assert own.expected == {}, "what was measured is not inherited"


def test_sizes_for_training_are_drawn_as_the_tables_say(write: Write) -> None:
    model = "[model]\nmin_size = 100\nmax_size = 150\nmax_scale = 2.0\n"
    for data, sizes in (
        ("", [(100, 150, 2.0)]),
        ("scales = [0.5, 1.2]", [(50, 75, 1.0), (120, 180, 2.4)]),
        ("min_sizes = [80, 120, 200]", [(80, 150, 2.0), (120, 150, 2.0), (150, 150, 2.0)]),
    ):
        setup = load(write(f'{model}[data]\nflip = "horizontal"\ncrop = 64\n{data}'))
        steps = setup.train_transform().transforms
        first = steps[0]
        choices = first.choices if isinstance(first, RandomResize) else (first,)
        assert [(c.min_size, c.max_size, c.max_scale) for c in choices] == sizes
        assert isinstance(steps[1], RandomCrop) and steps[1].size == 64
        assert [step.p for step in drawn(setup, HorizontalFlip)] == [0.5]
        still = setup.eval_transform().transforms
        assert isinstance(still[0], Resize) and len(still) == 2
        assert (still[0].min_size, still[0].max_size, still[0].max_scale) == (100, 150, 2.0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[model", "not TOML (Expected ']'"),
        ("[modle]", "modle; expected texts `about` and `base`, and tables of model, anchors"),
        ("about = 3", "about; expected texts"),
        ('model = "x"', "model; expected texts"),
        ("[model]\nalhpa = 0.5", "model.alhpa is unknown; expected one of alpha, "),
        ("[model]\nalhpa = 0.5", "did you mean alpha?"),
        ("[model]\nanchor_grid = 1", "model.anchor_grid is unknown"),
        ("[model]\nnum_classes = 3", "model.num_classes is unknown"),
        ('[model]\nalpha = "much"', "model.alpha is 'much'; expected a value such as 0.25"),
        ("[model]\nmin_size = true", "model.min_size is True; expected a value such as 800"),
        ('[model]\nloss = "focl"', "loss: expected one of ('focal', "),
        ('[model]\nlow_quality = "some"', "low_quality: expected one of"),
        ('[model]\nmax_scale = "2"', "model.max_scale is '2'; expected a value such as 2.0"),
        ("[model]\nmin_size = 900\nmax_size = 800\nmax_scale = -1.0", "max_scale: expected a numb"),
        ('[anchors]\nconvention = "papr"', "did you mean paper?"),
        ("[anchors]\nsize = [8]", "anchors.size is unknown; expected one of aspect_ratios, con"),
        ("[anchors]\nsizes = 8", "anchors.sizes is 8; expected a value such as"),
        ("[anchors]\nsizes = [8]", "the 5 levels P3 to P7, got 1"),
        ('[data]\nflip = "horizontl"', "did you mean horizontal?"),
        ("[data]\ncrop = 0", "at least 1 pixel, got 0"),
        ("[data]\nmin_sizes = []", "at least one size"),
        ("[data]\nscales = [0.0]", "expected 0 < min_size"),
        ("[data]\nscales = [1.0]\nmin_sizes = [64]", "data has min_sizes and scales"),
        ("[train]\nepoch = 3", "did you mean epochs?"),
        ("[train]\nepochs = 3.5", "train.epochs is 3.5; expected a value such as 12"),
        ("[train]\nepochs = 0", "epochs: expected an integer of at least 1, got 0"),
        ('[train]\nlr = "high"', "train.lr is 'high'; expected a value such as 0.001"),
        ("[train]\nlr = -1.0", "lr: expected a number, 0 or more, got -1.0"),
        ("[train]\nlr = nan", "lr: expected a number, 0 or more, got nan"),
        ("[train]\nema = 1.0", "ema: expected a number from 0 to 1, below 1, got 1.0"),
        ("[train]\nmilestones = [2]", "milestones: expected numbers from 0 to 1, got (2,)"),
        ('[train]\noptimizer = "adam"', "optimizer: expected one of adamw, sgd, got 'adam'"),
        ('base = "smal"', "recipe smal: unknown; expected one of"),
        ('base = "none.toml"', "none.toml: cannot be read: No such file"),
        ('base = "own.toml"', "is its own base"),
        ('base = "./folder/../own.toml"', "is its own base"),
    ],
)
def test_a_bad_recipe_is_named_in_one_line(write: Write, text: str, message: str) -> None:
    name = write(text)
    with pytest.raises(UserError, match=re.escape(message)) as raised:
        setup = load(name)
        setup.make_recipe()
        setup.train_transform()
        setup.make_model(2)
    assert str(raised.value).startswith("recipe ") and "\n" not in str(raised.value)


def test_recipes_that_are_not_there() -> None:
    for name, message in (
        ("modrn", "did you mean modern?"),
        ("no/such.toml", "cannot be read: No such file"),
        (str(FOLDER) + ".toml", "cannot be read"),
    ):
        with pytest.raises(UserError, match=re.escape(message)):
            load(name)


def test_with_leaves_the_recipe_as_it_is() -> None:
    small = load("small")
    before: dict[str, Any] = {**small.model}
    changed = small.with_(model={"alpha": 0.9}, train={"epochs": 2})
    assert changed.model == {**before, "alpha": 0.9} and small.model == before
    with pytest.raises(UserError, match="did you mean gamma"):
        small.with_(model={"gama": 1.0})
