"""Training: repeatable from a seed, resumable to the bit, and honest about a run that diverged."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import pytest
import torch
from tiny_runs import SIZE, dataset, records, tiny_model, without_clocks
from torch import Tensor

import focaldet.train.run
from focaldet.checkpoint import PREVIOUS, load_checkpoint, load_model, save_checkpoint
from focaldet.data import (
    CocoDataset,
    DetectionDataset,
    eval_transform,
    generate_scenes,
    train_transform,
)
from focaldet.errors import UserError
from focaldet.models import winograd
from focaldet.models.winograd import WinogradConv2d
from focaldet.train import BEST, LAST, Recipe, train
from focaldet.train.optim import SCHEDULES, Average, make_optimizer, schedule_factor


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scenes")
    generate_scenes(folder / "set", images=7, seed=1, size=SIZE, objects=(3, 5))
    return folder / "set"


def run(scenes: Path, out: Path, recipe: Recipe, resume: bool = False, **model: object) -> dict:
    train_set, val_set = dataset(scenes, True), dataset(scenes, False)
    return train(tiny_model(**model), train_set, val_set, out, recipe, resume=resume)


def weights_of(folder: Path) -> dict[str, Tensor]:
    return load_checkpoint(folder / LAST)[0]


def assert_same_bits(left: dict[str, Tensor], right: dict[str, Tensor]) -> None:
    assert left.keys() == right.keys()
    different = [name for name in left if not torch.equal(left[name], right[name])]
    assert not different


class Stop(Exception):
    """Stands for a kill."""


def test_a_run_leaves_checkpoints_metrics_and_curves(scenes: Path, tmp_path: Path) -> None:
    recipe = Recipe(epochs=3, batch_size=3, eval_every=2, workers=0)
    scores = run(scenes, tmp_path / "run", recipe)

    names = {BEST, LAST, PREVIOUS, "metrics.jsonl", "curves.png"}
    assert {p.name for p in (tmp_path / "run").iterdir()} == names
    model, description = load_model(tmp_path / "run" / LAST)
    assert description.epoch == 3 and description.metrics == scores
    assert description.class_names == ["disc", "square", "triangle"]
    assert model.config == tiny_model().config

    lines = records(tmp_path / "run")
    steps = [line for line in lines if "lr" in line]
    epochs = [line for line in lines if "images_per_second" in line]
    assert [s["step"] for s in steps] == list(range(1, 10)), "3 epochs of 7 images, 3 at a time"
    assert [e["step"] for e in epochs] == [3, 6, 9]
    assert [("stats" in e) for e in epochs] == [False, True, True]
    for key in ("classification", "bbox_regression", "grad_norm", "n_foreground"):
        assert all(math.isfinite(s[key]) and s[key] > 0 for s in steps), key


def test_the_loss_falls(scenes: Path, tmp_path: Path) -> None:
    run(scenes, tmp_path, Recipe(epochs=8, batch_size=4, lr=2e-3, eval_every=8, workers=0))
    losses = [line["loss"] for line in records(tmp_path) if "images_per_second" in line]
    assert losses[-1] < 0.7 * losses[0], losses


def test_same_seed_same_weights_for_any_number_of_workers(scenes: Path, tmp_path: Path) -> None:
    for name, seed, workers in (("a", 5, 0), ("b", 5, 2), ("c", 6, 0)):
        recipe = Recipe(epochs=1, batch_size=3, seed=seed, workers=workers)
        run(scenes, tmp_path / name, recipe)
    assert_same_bits(weights_of(tmp_path / "a"), weights_of(tmp_path / "b"))
    a, c = (weights_of(tmp_path / n)["head.classification_head.cls_logits.weight"] for n in "ac")
    assert not torch.equal(a, c), "another seed gives another order of the images"


def test_winograds_way_is_taken_and_repeats(
    scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(winograd, "LEAST_TILES", 1)
    maps: list[int] = []
    pays = WinogradConv2d.pays
    monkeypatch.setattr(WinogradConv2d, "pays", lambda *x: maps.append(pays(*x)) or pays(*x))
    for name in "ab":
        run(scenes, tmp_path / name, Recipe(epochs=1, batch_size=4, workers=0), fpn_channels=128)
    assert any(maps)
    assert_same_bits(*(weights_of(tmp_path / name) for name in "ab"))


@pytest.mark.parametrize(
    "recipe",
    [
        Recipe(epochs=3, batch_size=3, workers=0),
        Recipe(epochs=3, batch_size=3, optimizer="sgd", schedule="step", ema=0.9, workers=0),
    ],
    ids=["adamw", "sgd with average"],
)
def test_an_interrupted_run_resumes_to_the_same_bits(
    scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recipe: Recipe
) -> None:
    run(scenes, tmp_path / "whole", recipe)

    real_step, calls = focaldet.train.run.Run._step, []

    def step_until_killed(self, *args):
        calls.append(1)
        if len(calls) == 5:  # the second step of the second epoch
            raise Stop
        return real_step(self, *args)

    with monkeypatch.context() as patch, pytest.raises(Stop):
        patch.setattr(focaldet.train.run.Run, "_step", step_until_killed)
        run(scenes, tmp_path / "cut", recipe)
    assert len(records(tmp_path / "cut")) == 3 + 1 + 1
    with open(tmp_path / "cut" / "metrics.jsonl", "a") as file:
        file.write('{"epoch": 2, "step": 6, "stats": {"AP": 0.5}')  # cut while it was written
    scores = run(scenes, tmp_path / "cut", recipe, resume=True)

    assert_same_bits(weights_of(tmp_path / "whole"), weights_of(tmp_path / "cut"))
    whole, cut = (without_clocks(tmp_path / name) for name in ("whole", "cut"))
    assert whole == cut
    assert load_model(tmp_path / "whole" / LAST)[1].metrics == scores


def test_a_finished_run_resumes_to_its_scores(scenes: Path, tmp_path: Path) -> None:
    recipe = Recipe(epochs=1, batch_size=4, workers=0)
    scores = run(scenes, tmp_path, recipe)
    before = weights_of(tmp_path)
    assert run(scenes, tmp_path, recipe, resume=True) == scores
    assert_same_bits(before, weights_of(tmp_path))


def test_a_run_of_an_earlier_version_resumes(scenes: Path, tmp_path: Path) -> None:
    """Its config lacks the arguments that the model has got since."""
    recipe = Recipe(epochs=1, batch_size=4, workers=0)
    scores = run(scenes, tmp_path, recipe)
    weights, description, state = load_checkpoint(tmp_path / LAST, training=True)
    del state["identity"]["data"]
    state["identity"]["images"] = 7
    for config in (description.model, state["identity"]["model"]):
        for name in ("p7_relu", "stride_in"):
            del config[name]
    save_checkpoint(tmp_path / LAST, weights, description, state)
    assert run(scenes, tmp_path, recipe, resume=True) == scores
    with pytest.raises(UserError, match="has p7_relu True; this command has p7_relu False"):
        run(scenes, tmp_path, recipe, resume=True, p7_relu=False)


def test_averaged_weights_are_the_ones_kept(scenes: Path, tmp_path: Path) -> None:
    run(scenes, tmp_path, Recipe(epochs=1, batch_size=4, ema=0.999, workers=0))
    kept, _, state = load_checkpoint(tmp_path / LAST, training=True)
    name = "head.classification_head.cls_logits.weight"
    assert not torch.equal(kept[name], state["weights"][name])
    assert_same_bits(kept, load_checkpoint(tmp_path / BEST)[0])


def test_folders_and_runs_that_do_not_fit_are_refused(scenes: Path, tmp_path: Path) -> None:
    recipe = Recipe(epochs=1, batch_size=4, workers=0)
    with pytest.raises(UserError, match="no last.safetensors to resume from"):
        run(scenes, tmp_path / "run", recipe, resume=True)
    assert not (tmp_path / "run").exists()
    run(scenes, tmp_path / "run", recipe)
    with pytest.raises(UserError, match="holds a training run already"):
        run(scenes, tmp_path / "run", recipe)
    with pytest.raises(
        UserError, match="the run to resume has epochs 1; this command has epochs 2;"
    ):
        run(scenes, tmp_path / "run", Recipe(epochs=2, batch_size=4, workers=0), resume=True)
    with pytest.raises(UserError, match="has gamma 2.0; this command has gamma 1.0"):
        run(scenes, tmp_path / "run", recipe, resume=True, gamma=1.0)
    train_set, val_set = dataset(scenes, True), dataset(scenes, False)
    train_set.transform = train_transform(SIZE, horizontal_flip=0.25)
    with pytest.raises(UserError, match=r"Flip\(p=0.5\), V.*; this command has .*Flip\(p=0.25\), "):
        train(tiny_model(), train_set, val_set, tmp_path / "run", recipe, resume=True)
    content = json.loads((scenes / "instances.json").read_text())
    content["annotations"][0]["bbox"][2] += 1
    (tmp_path / "moved.json").write_text(json.dumps(content))
    moved = CocoDataset(tmp_path / "moved.json", scenes / "images", transform=train_transform(SIZE))
    with pytest.raises(UserError, match=r"has annotations [0-9a-f]{12}; this command has annota"):
        train(tiny_model(), moved, val_set, tmp_path / "run", recipe, resume=True)
    with pytest.raises(UserError, match=r"has validation [0-9a-f]{12}; this command has valida"):
        train(tiny_model(), dataset(scenes, True), moved, tmp_path / "run", recipe, resume=True)
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be made a folder"):
        run(scenes, tmp_path / "file", recipe)


def test_steps_without_a_finite_loss_are_skipped_and_named_until_it_is_too_many(
    scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tiny_model()
    with torch.no_grad():
        model.head.classification_head.cls_logits.bias[0] = math.nan
    before = {name: value.clone() for name, value in model.state_dict().items()}
    recipe = Recipe(epochs=2, batch_size=2, workers=0, max_bad_steps=3, save_every=1)
    named = r"classification is nan in step %d, on the images \d+\.png, \d+\.png"
    with pytest.raises(UserError, match=named % 3 + "; .* 3 step.* lower learning rate") as info:
        train(model, dataset(scenes, True), dataset(scenes, False), tmp_path, recipe)
    assert "\n" not in str(info.value)
    told = capsys.readouterr().err
    for step in (1, 2):
        assert re.search(f"step skipped: {named % step}\n", told)
    state = load_checkpoint(tmp_path / LAST, training=True)[2]
    assert state["step"] == 2, "a resumed run meets the step that ends it again"
    for name, value in model.state_dict().items():  # with the statistics of BatchNorm
        torch.testing.assert_close(value, before[name], rtol=0, atol=0, equal_nan=True)


def test_training_goes_on_after_a_bad_step(
    scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One image whose pixels are not finite: a step an epoch is skipped, the others count."""
    real = DetectionDataset.load

    def load(self, index, generator):
        image, target = real(self, index, generator)
        return (image * math.nan if target["image_id"] == 2 else image), target

    monkeypatch.setattr(DetectionDataset, "load", load)
    train_set = dataset(scenes, True)
    val_set = dataset(scenes, False)
    monkeypatch.setattr(val_set, "load", lambda *a: real(val_set, *a))
    model = tiny_model()
    train(model, train_set, val_set, tmp_path, Recipe(epochs=2, batch_size=2, workers=0))

    steps = [line for line in records(tmp_path) if "lr" in line]
    skipped = [line for line in steps if "skipped" in line]
    assert len(steps) == 8 and len(skipped) == 2
    assert all(s["classification"] is None and s["skipped"] for s in skipped)
    epochs = [line for line in records(tmp_path) if "images_per_second" in line]
    assert [e["bad_steps"] for e in epochs] == [1, 2]
    assert all(math.isfinite(e["loss"]) for e in epochs)
    assert all(value.isfinite().all() for value in model.state_dict().values())


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"eval_every": 0}, "eval_every: expected an integer of at least 1, got 0"),
        ({"save_every": -1}, "save_every: expected an integer of at least 0, got -1"),
        ({"batch_size": 2.5}, "batch_size: expected an integer of at least 1, got 2.5"),
        (
            {"precision": "int8"},
            "precision: expected one of float32, bfloat16, ",
        ),
    ],
)
def test_recipes_that_make_no_sense(wrong: dict, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        Recipe(**wrong)


def test_sets_of_other_classes_are_refused(scenes: Path, tmp_path: Path) -> None:
    content = json.loads((scenes / "instances.json").read_text())
    content["categories"][0]["name"] = "ring"
    (tmp_path / "other.json").write_text(json.dumps(content))
    other = CocoDataset(tmp_path / "other.json", scenes / "images", transform=eval_transform(SIZE))
    with pytest.raises(UserError, match="differ in their categories: .*disc.*ring"):
        train(tiny_model(), dataset(scenes, True), other, tmp_path / "run")


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules_start_low_peak_at_1_and_end_low(name: str) -> None:
    factors = [schedule_factor(name, step, 100, 10) for step in range(100)]
    assert factors[0] < 0.05 and factors[-1] < 0.02
    assert max(factors) == pytest.approx(1, abs=1e-3)
    peak = factors.index(max(factors))
    assert all(a <= b for a, b in zip(factors[:peak], factors[1 : peak + 1], strict=True))
    assert all(a >= b for a, b in zip(factors[peak:], factors[peak + 1 :], strict=False))


def test_step_divides_by_ten_at_its_milestones() -> None:
    """The paper's unless given; of any number of steps, to the step."""
    for total in (9, 90, 91, 100, 90_000):
        for step in range(0, total, max(1, total // 1000)):
            want = 0.1 ** ((3 * step >= 2 * total) + (9 * step >= 8 * total))
            assert schedule_factor("step", step, total, 0) == want, (step, total)
    rates = [schedule_factor("step", step, 10, 0, (0.3, 0.5, 0.8)) for step in range(10)]
    assert rates == pytest.approx([1] * 3 + [0.1] * 2 + [0.01] * 3 + [0.001] * 2)


def test_a_run_of_before_has_the_milestones_of_before() -> None:
    ours = Recipe().as_dict()
    older = {name: value for name, value in ours.items() if name != "milestones"}
    assert list(Recipe.differences(older, ours)) == []
    other = Recipe(milestones=(0.5,)).as_dict()
    ((name, _, here),) = Recipe.differences(older, other)
    assert (name, here) == ("milestones", [0.5]) and Recipe(milestones=[0.5]).as_dict() == other


def test_onecycle_is_torchs() -> None:
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([weight], lr=1)
    theirs = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=1, total_steps=60, cycle_momentum=False
    )
    for step in range(60):
        # torch puts its peak at step 0.3 * total - 1.
        assert schedule_factor("onecycle", step, 60, 0) == pytest.approx(
            optimizer.param_groups[0]["lr"], abs=0.05
        )
        optimizer.step()
        theirs.step()


def test_norms_and_biases_are_not_decayed() -> None:
    model = tiny_model()
    decayed, plain = make_optimizer(model, "adamw", None, 0.3, 8).param_groups
    assert (decayed["weight_decay"], plain["weight_decay"]) == (0.3, 0.0)
    names = {id(p): name for name, p in model.named_parameters()}
    assert all(names[id(p)].endswith("weight") for p in decayed["params"])
    assert len(decayed["params"]) + len(plain["params"]) == len(names)
    assert not any("bn" in names[id(p)] for p in decayed["params"])


def test_average_follows_the_weights() -> None:
    model = torch.nn.BatchNorm1d(1)
    average = Average(model, decay=0.9)
    with torch.no_grad():
        model.weight.fill_(2)
        model.num_batches_tracked.fill_(7)
    average.update(model)  # decay 2/11 in the first update
    assert average.weights["weight"].item() == pytest.approx(2 - 2 / 11)
    assert average.weights["num_batches_tracked"] == 7
    for _ in range(100):
        average.update(model)
    assert average.weights["weight"].item() == pytest.approx(2, abs=1e-3)
