"""The training loop: epochs, evaluation, checkpoints; resumable from wherever it was cut."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..checkpoint import (
    LAST,
    Description,
    generations,
    load_checkpoint,
    load_newest,
    save_checkpoint,
    save_generation,
)
from ..data import DetectionDataset
from ..distributed import Ranks, alone
from ..errors import UserError
from ..evaluate import Scores, Stopped, evaluate_model
from ..files import sweep
from ..models import RetinaNet
from ..scoring import check_evaluator
from .events import Events
from .history import History
from .recipe import Recipe
from .run import Run, out_of_memory
from .stop import Stop, on_sigterm
from .trace import trace

BEST, TRACE, EVENTS = "best.safetensors", "trace.json", "tensorboard"


def train(
    model: RetinaNet,
    train_set: DetectionDataset,
    val_set: DetectionDataset,
    out: str | Path,
    recipe: Recipe | None = None,
    *,
    device: str | torch.device = "cpu",
    ranks: Ranks | None = None,
    resume: bool = False,
) -> Scores:
    """Trains the model and returns the scores, on `val_set`, of its last epoch.

    The data sets bring their transforms with them; where that of `train_set` draws the size of an
    image, or limits how far it is enlarged, the model leaves it at that size. Into the folder `out`
    go `last.safetensors` (after every epoch, and within it where the recipe says so),
    `previous.safetensors` (the one before, in case that one is damaged), `best.safetensors` (by
    AP), `metrics.jsonl` and `curves.png`.

    With the `ranks` of `focaldet.distributed.join`, several processes train one model: all of them
    call this with the same arguments, on the same files. `device` is for a process by itself.

    The same model, data, recipe, number of threads and of processes give the same weights, bit for
    bit on the CPU, whether or not the run was interrupted, however often, and taken up again with
    `resume`. SIGTERM ends the run after the step that it falls in: the state is saved, and
    SystemExit raised with exit code 0.

    Raises `UserError` if `out` holds a run already (or none, or that of another recipe or model, to
    resume), if the classes of the data sets differ, if memory does not suffice, and if the loss or
    its gradient is not finite in `max_bad_steps` steps in a row, naming the images of the batch.
    """
    recipe, ranks, out = recipe or Recipe(), ranks or alone(device), Path(out)
    check_evaluator(recipe.evaluator)
    if (val_set.class_names, val_set.category_ids) != (
        train_set.class_names,
        train_set.category_ids,
    ):
        raise UserError(
            f"training and validation data differ in their categories: {train_set.class_names} "
            f"with ids {train_set.category_ids}, and {val_set.class_names} with ids "
            f"{val_set.category_ids}; give both the same ones"
        )
    ranks.first(lambda: _prepare(out, resume))
    loop = _Loop(Run(model, train_set, val_set, recipe, ranks), val_set, out, resume)
    with on_sigterm() as stop:
        while loop.run.epoch < recipe.epochs:
            if not loop.epoch(stop):
                ranks.first(loop.save)
                if ranks.main:
                    done = f"stopped by SIGTERM after step {loop.run.step}"
                    print(f"focaldet: {done}; --resume goes on", file=sys.stderr)
                raise SystemExit(0)
    if loop.events:
        loop.events.close()
    bad, bad_val = (_count_skipped(data, ranks) for data in (train_set, val_set))
    if ranks.main and bad + bad_val:
        print(f"bad images skipped: {bad} in training, {bad_val} in validation")
    return loop.scores


def _count_skipped(dataset: DetectionDataset, ranks: Ranks) -> int:
    """Images that any rank has met as bad ones; rank 0 is told."""
    everyone = ranks.gather({"skipped": np.array([*dataset.skipped], np.int64)})
    return len(np.unique(np.concatenate([rank["skipped"] for rank in everyone]))) if everyone else 0


class _Loop:
    """A run together with what it is scored on and where it is kept."""

    def __init__(self, run: Run, val_set: DetectionDataset, out: Path, resume: bool) -> None:
        self.run, self.val_set, self.out = run, val_set, out
        self.best, self.scores = -math.inf, Scores()
        if resume:
            # Rank 0 says which: all take the same, or none.
            path = run.ranks.first(lambda: load_newest(out)[-1])
            weights, description, state = load_checkpoint(path, training=True)
            self.best = run.resume(path, weights, description, state)
            here, there = (run.epoch, run.step), run.ranks.share((run.epoch, run.step))
            if here != there:
                raise UserError(
                    f"{path}: rank {run.ranks.rank} reads that of step {here[1]}, rank 0 that of "
                    f"step {there[1]}; --out has to be one folder, which all machines see as it is"
                )
            self.scores = description.metrics
        self.history = History(out, run.epoch, run.step) if run.ranks.main else None
        self.events: Events | None = None
        if self.history and run.recipe.tensorboard:
            self.events = Events(out / EVENTS, self.history.records)
        self.trace = out / TRACE if run.recipe.profile and run.ranks.main else None

    def epoch(self, stop: Stop) -> bool:
        """Trains for what is left of an epoch, evaluates and saves. False where the run is to end
        before that is done."""
        run, recipe, ranks = self.run, self.run.recipe, self.run.ranks
        file, self.trace = self.trace, None
        with trace(file) as after_step:
            for ending in run.steps(stop, self._note):
                after_step()
                if ending:
                    return False
                if recipe.save_every and not run.step % recipe.save_every:
                    ranks.first(self.save)
        improved = False
        stats: dict[str, Any] = {}
        if (run.epoch + 1) % recipe.eval_every == 0 or run.epoch + 1 == recipe.epochs:
            try:
                self.scores = self._evaluate(stop)
            except Stopped:
                return False
            stats = {"stats": self.scores["stats"]}
            improved = stats["stats"]["AP"] > self.best
            self.best = max(self.best, stats["stats"]["AP"])
        record = run.close_epoch() | stats
        ranks.first(lambda: self._publish(record, improved))
        return True

    def _evaluate(self, stop: Stop) -> Scores:
        """Of the weights that are kept, on as many images at once as a micro-batch has."""
        run, recipe = self.run, self.run.recipe
        images = max(1, recipe.batch_size // (recipe.accumulate * run.ranks.world))
        try:
            return evaluate_model(
                run.kept_model(),
                self.val_set,
                batch_size=images * run.ranks.world,
                workers=recipe.workers,
                ranks=run.ranks,
                evaluator=recipe.evaluator,
                max_detections=recipe.max_detections,
                stop=lambda: stop.requested,
            )
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            raise UserError(
                f"out of memory in the evaluation after step {run.step} (rank {run.ranks.rank}): "
                f"{images} images at once; a higher --accumulate takes fewer"
            ) from error

    def _publish(self, record: dict[str, Any], improved: bool) -> None:
        self._note(record)
        if improved:
            save_checkpoint(self.out / BEST, self.run.weights(), self._description())
        self.save()
        if self.history:
            self.history.draw()
        print(_summary(record, self.run.recipe.epochs), flush=True)

    def _note(self, record: dict[str, Any]) -> None:
        for log in (self.history, self.events):
            if log:
                log.add(record)

    def save(self) -> None:
        """Everything that a later process needs to go on from this step."""
        state = self.run.state() | {"best": self.best}
        save_generation(self.out, self.run.weights(), self._description(), state)

    def _description(self) -> Description:
        run = self.run
        return Description(
            run.model.config,
            run.dataset.class_names,
            run.dataset.category_ids,
            run.epoch,
            self.scores,
        )


def _prepare(out: Path, resume: bool) -> None:
    there = generations(out)
    if resume and not there:
        raise UserError(f"{out}: no {LAST} to resume from; leave out --resume to begin")
    if not resume and there:
        raise UserError(
            f"{out}: holds a training run already; --resume goes on with it, another --out "
            "starts anew"
        )
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"{out}: cannot be made a folder ({error.strerror}); name another --out"
        ) from error
    sweep(out)


def _summary(record: dict[str, Any], epochs: int) -> str:
    text = f"epoch {record['epoch']}/{epochs}  loss {record['loss']:.3f}"
    if "stats" in record:
        text += f"  AP {record['stats']['AP']:.3f}  AP50 {record['stats']['AP50']:.3f}"
    return f"{text}  {record['images_per_second']:.1f} images/s  {record['seconds']:.0f} s"
