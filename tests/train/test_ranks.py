"""Several processes train as one does: the same weights, every image scored once, one voice."""

from __future__ import annotations

import json
import math
import os
import re
import signal
import time
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import pytest
import torch
from processes import run_ranks, told
from tiny_runs import SIZE, dataset, records, tiny_model

from focaldet import evaluate
from focaldet.checkpoint import LAST, PREVIOUS, load_checkpoint
from focaldet.data import (
    Batches,
    DetectionDataset,
    generate_scenes,
)
from focaldet.distributed import ALONE, TIMEOUT, Ranks, join
from focaldet.evaluate import detect_dataset, evaluate_model
from focaldet.train import Recipe, loop, train
from focaldet.train.optim import make_optimizer
from focaldet.train.update import Update

SHORT = 1.5  # seconds, of the watch's timeout
IMAGES = 13  # in batches of 5: the last one has 3, and with 3 processes and 2 parts empty ones


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scenes") / "set"
    generate_scenes(folder, images=IMAGES, seed=1, size=SIZE, objects=(3, 5))
    return folder


def run(
    scenes: Path,
    out: Path,
    dtype: torch.dtype = torch.float32,
    model: dict | None = None,
    timeout: float = TIMEOUT,
    resume: bool = False,
    **recipe: object,
) -> None:
    """Twelve steps, in whatever processes there are."""
    torch.set_num_threads(1)
    settings = {"epochs": 4, "batch_size": 5, "optimizer": "sgd", "lr": 0.01, "warmup": 0}
    settings |= {"workers": 0, "eval_every": 4}
    with join("cpu", timeout) as ranks:
        train(
            tiny_model(dtype, **model or {}),
            dataset(scenes, True),
            dataset(scenes, False),
            out,
            Recipe(**settings | recipe),
            ranks=ranks,
            resume=resume,
        )


def largest_difference(left: Path, right: Path) -> float:
    """Of a tensor, relative to its norm."""
    ours, theirs = (load_checkpoint(folder / LAST)[0] for folder in (left, right))
    return max(
        ((ours[name].double() - theirs[name].double()).norm() / theirs[name].double().norm()).item()
        for name in theirs
        if theirs[name].double().norm() > 0
    )


@pytest.mark.parametrize(
    ("dtype", "model", "recipe", "world"),
    [
        (torch.float32, {"norm": "frozen"}, {}, 2),
        (torch.float64, {"norm": "frozen"}, {"accumulate": 2}, 3),
        (torch.float64, {"norm": "batch"}, {"sync_norm": True}, 2),
        (torch.float64, {"norm": "group", "normalizer": "image"}, {"ema": 0.9}, 2),
    ],
    ids=["float32", "float64, 3 x 2 parts", "float64, BatchNorm", "float64, by image, average"],
)
def test_the_weights_are_those_of_one_process(
    scenes: Path, tmp_path: Path, dtype: torch.dtype, model: dict, recipe: dict, world: int
) -> None:
    run(scenes, tmp_path / "one", dtype, model, **recipe | {"accumulate": 1})
    ranks = run_ranks(run_with, scenes, tmp_path / "many", dtype, model, recipe, world=world)
    assert all(rank.code == 0 for rank in ranks), told(ranks)
    bound = 1e-6 if dtype == torch.float32 else 1e-12
    assert largest_difference(tmp_path / "many", tmp_path / "one") < bound
    assert "".join(rank.output for rank in ranks).count("epoch 4/4") == 1, "rank 0 alone speaks"
    one, many = (records(tmp_path / name) for name in ("one", "many"))
    assert [r["n_foreground"] for r in one if "lr" in r] == [
        r["n_foreground"] for r in many if "lr" in r
    ]
    for mine, other in zip(one, many, strict=True):
        key = "classification" if "lr" in mine else "loss"
        assert mine[key] == pytest.approx(other[key], rel=1e-5)


def run_with(scenes: Path, out: Path, dtype: torch.dtype, model: dict, recipe: dict) -> None:
    run(scenes, out, dtype, model, **recipe)


@pytest.mark.slow
def test_compiled_steps_are_those_of_one_process(scenes: Path, tmp_path: Path) -> None:
    """Of batches whose shares have other shapes now and then, each compiled when it comes."""
    run(scenes, tmp_path / "one", torch.float64, {"norm": "frozen"})
    ranks = run_ranks(run_compiled, scenes, tmp_path / "many", seconds=300)
    assert all(rank.code == 0 for rank in ranks), told(ranks)
    assert largest_difference(tmp_path / "many", tmp_path / "one") < 1e-12
    assert ranks[1].output.count("compiling") >= 2, told(ranks)


def run_compiled(scenes: Path, out: Path) -> None:
    """The graph, that is: making code of it takes minutes."""
    real, patient = torch.nn.Module.compile, Ranks.patient
    torch.nn.Module.compile = lambda module: real(module, backend="aot_eager")

    def speaks(ranks: Ranks, what: str) -> AbstractContextManager[None]:
        if ranks.rank == 1:
            print(what)
        return patient(ranks, what)

    Ranks.patient = speaks
    run(scenes, out, torch.float64, {"norm": "frozen"}, compile=True)


def test_three_processes_that_begin_again_make_the_same_bits(scenes: Path) -> None:
    """How three numbers are rounded depends on the order in which they are added."""
    ranks = run_ranks(step_and_begin_again, scenes, world=3)
    assert all(rank.code == 0 for rank in ranks), told(ranks)


def step_and_begin_again(scenes: Path) -> None:
    recipe, models = Recipe(optimizer="sgd"), [tiny_model().train() for _ in range(2)]
    with join("cpu") as ranks:
        batches = Batches(dataset(scenes, True), 6, shuffle=True, rank=ranks.rank, world=3)
        first, second, _ = batches.epoch(0)
        for model, again in zip(models, (False, True), strict=True):
            optimizer = make_optimizer(model, "sgd", 0.1, None, 6)
            update = Update(model, optimizer, recipe, ranks)
            update([first], 1)
            if again:
                update = Update(model, optimizer, recipe, ranks)
            update([second], 2)
    ours, theirs = (model.state_dict() for model in models)
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []


def test_shares_are_padded_as_the_whole_batch_is() -> None:
    ranks = run_ranks(step_on_images_of_two_sizes)
    assert all(rank.code == 0 for rank in ranks), told(ranks)


def step_on_images_of_two_sizes() -> None:
    torch.manual_seed(0)
    images = [torch.rand(3, *size, dtype=torch.float64) for size in ((64, 40), (40, 64))]
    box = {"boxes": torch.tensor([[4.0, 4, 30, 30]]), "labels": torch.tensor([1])}
    outcomes = []
    with join("cpu") as ranks:
        for group, mine in ((ALONE, slice(2)), (ranks, slice(ranks.rank, ranks.rank + 1))):
            model = tiny_model(torch.float64, norm="frozen", max_size=96).train()
            update = Update(model, make_optimizer(model, "sgd", 0.1, None, 2), Recipe(), group)
            outcomes.append(update([(images[mine], [box, box][mine])], 1))
    one, two = outcomes
    assert one.classification == pytest.approx(two.classification, rel=1e-12)
    assert one.grad_norm == pytest.approx(two.grad_norm, rel=1e-12)


def test_every_image_is_scored_once(scenes: Path, tmp_path: Path) -> None:
    model = tiny_model(score_thresh=0.0, detections_per_img=5).eval()
    found = detect_dataset(model, dataset(scenes, False), batch_size=4)
    ranks = run_ranks(score, scenes, tmp_path, world=3)
    assert all(rank.code == 0 for rank in ranks), told(ranks)
    theirs = np.load(tmp_path / "found.npz")
    order, their_order = (
        np.lexsort((-s, i))
        for s, i in ((found.scores, found.image_ids), (theirs["scores"], theirs["image_ids"]))
    )
    np.testing.assert_array_equal(found.image_ids[order], theirs["image_ids"][their_order])
    np.testing.assert_allclose(found.scores[order], theirs["scores"][their_order], rtol=1e-5)
    scores = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(3)]
    assert scores[0] == scores[1] == scores[2]


def score(scenes: Path, out: Path) -> None:
    model = tiny_model(score_thresh=0.0, detections_per_img=5).eval()
    with join("cpu") as ranks:
        found = detect_dataset(model, dataset(scenes, False), batch_size=4, ranks=ranks)
        if ranks.main:
            np.savez(out / "found.npz", **vars(found))
        scores = evaluate_model(model, dataset(scenes, False), batch_size=4, ranks=ranks)
        (out / f"{ranks.rank}.json").write_text(json.dumps(scores))


def test_ranks_that_read_other_checkpoints_do_not_go_on(scenes: Path, tmp_path: Path) -> None:
    run(scenes, tmp_path)
    ranks = run_ranks(resume_from_another, scenes, tmp_path)
    assert [rank.code for rank in ranks] == [2, 2], told(ranks)
    text = "rank 1 reads that of step 9, rank 0 that of step 12; --out has to be one folder"
    assert text in ranks[1].output, told(ranks)


def resume_from_another(scenes: Path, out: Path) -> None:
    """As a machine does that has the folder in its cache."""
    if os.environ["RANK"] == "1":
        loop.load_checkpoint = lambda *_, **more: load_checkpoint(out / PREVIOUS, **more)
    run(scenes, out, resume=True)


def test_bad_images_of_all_ranks_are_counted_once(scenes: Path) -> None:
    ranks = run_ranks(skip, scenes)
    assert all(rank.code == 0 for rank in ranks), told(ranks)


def skip(scenes: Path) -> None:
    data = dataset(scenes, True)
    with join("cpu") as ranks:
        for index in (ranks.rank, 5):
            data.note_skipped(index, "cut off")
        assert loop._count_skipped(data, ranks) == (3 if ranks.main else 0)
        assert loop._count_skipped(dataset(scenes, True), ranks) == 0


def test_a_bad_share_is_named_by_one_voice(scenes: Path, tmp_path: Path) -> None:
    ranks = run_ranks(run_with_bad_pixels, scenes, tmp_path / "run")
    assert [rank.code for rank in ranks] == [2, 2], told(ranks)
    first, second = (rank.output for rank in ranks)
    assert second == ""
    skipped, error = first.splitlines()[-2:]
    assert skipped.startswith("focaldet: step skipped: classification is nan in step 1, on the ")
    assert skipped.count(".png") == 2, "the share of rank 1"
    assert error.startswith("focaldet: error: training diverged: classification is nan in step 2")


def run_with_bad_pixels(scenes: Path, out: Path) -> None:
    if os.environ["RANK"] == "1":
        real = DetectionDataset.load

        def load(self, index, generator):
            image, target = real(self, index, generator)
            return image * math.nan, target

        DetectionDataset.load = load
    run(scenes, out, max_bad_steps=2)


def test_sigterm_to_one_process_ends_all_after_the_same_step(scenes: Path, tmp_path: Path) -> None:
    ranks = run_ranks(run_until_asked_to_end, scenes, tmp_path / "run")
    assert [rank.code for rank in ranks] == [0, 0], told(ranks)
    assert "stopped by SIGTERM after step 5; --resume goes on" in ranks[0].output
    assert ranks[1].output == ""
    _, description, state = load_checkpoint(tmp_path / "run" / LAST, training=True)
    assert state["step"] == 5 and description.epoch == 1


def run_until_asked_to_end(scenes: Path, out: Path) -> None:
    if os.environ["RANK"] == "1":
        real, calls = Update.__call__, []

        def step(self, *args):
            calls.append(1)
            outcome = real(self, *args)
            if len(calls) == 4:  # before the ranks agree in the fifth
                os.kill(os.getpid(), signal.SIGTERM)
            return outcome

        Update.__call__ = step
    run(scenes, out)


def test_what_takes_long_and_shares_without_boxes_are_no_faults(
    scenes: Path, tmp_path: Path
) -> None:
    content = json.loads((scenes / "instances.json").read_text())
    content["annotations"] = [a for a in content["annotations"] if a["image_id"] == 1]
    few = tmp_path / "few"
    few.mkdir()
    (few / "instances.json").write_text(json.dumps(content))
    (few / "images").symlink_to(scenes / "images")
    ranks = run_ranks(run_and_score_slowly, few, tmp_path / "run")
    assert [rank.code for rank in ranks] == [0, 0], told(ranks)
    counts = [line["n_foreground"] for line in records(tmp_path / "run") if "lr" in line]
    assert counts.count(0) == 8 and max(counts) > 0, "one batch in three has the image"


def run_and_score_slowly(scenes: Path, out: Path) -> None:
    real = evaluate.evaluate_detections

    def slow(*args, **more):
        time.sleep(3 * SHORT)
        return real(*args, **more)

    evaluate.evaluate_detections = slow
    run(scenes, out, timeout=SHORT)


def test_a_rank_that_hangs_is_named_with_its_step(scenes: Path, tmp_path: Path) -> None:
    ranks = run_ranks(run_and_hang, scenes, tmp_path / "run")
    assert all(rank.code not in (0, None) for rank in ranks), told(ranks)
    named = r"focaldet: error: rank 1 hangs in step 4 \(loading\): no progress for \d+ s"
    assert re.search(named, ranks[0].output), told(ranks)


def run_and_hang(scenes: Path, out: Path) -> None:
    if os.environ["RANK"] == "1":
        real, calls = Update.__call__, []

        def step(self, *args):
            calls.append(1)
            if len(calls) == 4:
                time.sleep(600)
            return real(self, *args)

        Update.__call__ = step
    run(scenes, out, timeout=SHORT)


def test_what_rank_0_cannot_do_ends_all(scenes: Path, tmp_path: Path) -> None:
    ranks = run_ranks(run_with_a_full_disk, scenes, tmp_path / "run")
    assert [rank.code for rank in ranks] == [1, 2], told(ranks)
    assert "OSError: [Errno 28] No space left on device" in ranks[0].output
    assert ranks[1].output == ""


def run_with_a_full_disk(scenes: Path, out: Path) -> None:
    def full(*args):
        raise OSError(28, "No space left on device")

    loop.save_generation = full
    run(scenes, out, save_every=2)
