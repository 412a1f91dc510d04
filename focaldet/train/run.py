"""A training run: what changes from step to step, and how far it has come."""

from __future__ import annotations

import copy
import math
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm
from tqdm import tqdm

from ..checkpoint import Description, load_weights
from ..data import Batches, DetectionDataset
from ..data.transforms import described, seeded_generator, settles_size
from ..distributed import Ranks, patient_with_compiler, synchronise
from ..errors import Diverged, UserError
from ..models import RetinaNet
from ..models.winograd import use_winograd
from .optim import Average, load_optimizer_state, make_optimizer, schedule_factor
from .recipe import Difference, Recipe, same
from .stop import Stop
from .update import MicroBatch, Outcome, Update, statistics

_STEPS = 1 << 32  # sets the seeds of steps apart from those of images, whose keys begin with epochs


class Run:
    """Weights, optimizer, average of the weights, and counters.

    Everything random is a function of the recipe's seed and of the step, so `state` and the weights
    are all that a later process needs in order to go on as if nothing had happened.
    """

    def __init__(
        self,
        model: RetinaNet,
        train_set: DetectionDataset,
        val_set: DetectionDataset,
        recipe: Recipe,
        ranks: Ranks,
    ) -> None:
        self.recipe: Recipe = recipe
        self.ranks: Ranks = ranks
        self.dataset: DetectionDataset = train_set
        # channels_last: what cuDNN's and bfloat16 convolutions prefer; the losses read it in place.
        model = model.to(ranks.device).to(memory_format=torch.channels_last)
        self.model: RetinaNet = model
        if not recipe.compile:
            use_winograd(model)
        if recipe.sync_norm and ranks.world > 1:
            synchronise(model)
        self.optimizer: torch.optim.Optimizer = make_optimizer(
            model, recipe.optimizer, recipe.lr, recipe.weight_decay, recipe.batch_size
        )
        self.peaks: list[float] = [group["lr"] for group in self.optimizer.param_groups]
        self.average: Average | None = Average(model, recipe.ema) if recipe.ema else None
        self.batches: Batches = Batches(
            train_set,
            recipe.batch_size,
            seed=recipe.seed,
            workers=recipe.workers,
            shuffle=True,
            rank=ranks.rank,
            world=ranks.world,
            parts=recipe.accumulate,
            pin=ranks.device.type == "cuda",
        )
        self.update: Update | None = None
        self.scale: dict[str, Any] = {}  # of float16's losses, where it was before `update` began
        self.epoch: int = 0  # epochs finished
        self.step: int = 0  # steps done
        self.bad_steps: int = 0  # of them without finite losses
        self.bad_in_a_row: int = 0
        self.sums: dict[str, float] = dict.fromkeys(
            ("loss", "learned", "images", "seconds"), 0.0
        )  # of the epoch
        # What a resumed run must have in common with the run that it goes on with.
        self.identity: dict[str, Any] = {
            "recipe": recipe.as_dict(),
            "data": {
                "images": len(train_set),
                "annotations": train_set.table.digest()[:12],
                "transform": described(train_set.transform),
                "validation": val_set.table.digest()[:12],  # which the best AP is of
            },
            "model": model.config,
        }

    @property
    def steps_per_epoch(self) -> int:
        return len(self.batches)

    def steps(self, stop: Stop, note: Callable[[dict[str, Any]], None]) -> Iterator[bool]:
        """Does the steps that are left of the epoch, and notes the record of each; says whether to
        end the run after it. `Diverged` where too many in a row were bad."""
        if self.update is None:
            resize = not settles_size(self.dataset.transform)
            self.update = Update(self.model, self.optimizer, self.recipe, self.ranks, resize)
            if self.scale:
                self.update.scaler.load_state_dict(self.scale)
        update = self.update
        self.model.train()
        first = self.step - self.epoch * self.steps_per_epoch
        batches = self.batches.epoch(self.epoch, first)
        # cuDNN would otherwise take algorithms whose sums differ from run to run.
        repeatable = torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True)
        patient = patient_with_compiler(self.ranks) if self.recipe.compile else nullcontext()
        with repeatable, patient, self._bar() as bar:
            for _ in range(first, self.steps_per_epoch):
                start = time.perf_counter()
                self.ranks.at(self.step + 1, "loading")
                parts = list(islice(batches, self.recipe.accumulate))
                waited = time.perf_counter() - start
                outcome = self._step(update, parts, stop)
                seconds = time.perf_counter() - start
                self._count(outcome, seconds)
                bar.update(outcome.images)
                bar.set_postfix(loss=f"{_loss(outcome):.3f}", refresh=False)
                note(self._record(outcome, seconds, waited))
                if outcome.problem and not outcome.overflow:
                    self._warn(outcome, parts)
                yield outcome.stop

    def _step(self, update: Update, parts: list[MicroBatch], stop: Stop) -> Outcome:
        recipe = self.recipe
        total = recipe.epochs * self.steps_per_epoch
        factor = schedule_factor(
            recipe.schedule, self.step, total, recipe.warmup, recipe.milestones
        )
        for group, peak in zip(self.optimizer.param_groups, self.peaks, strict=True):
            group["lr"] = peak * factor
        # What layers draw, such as a body's dropout, too, is a function of the step.
        torch.manual_seed(
            seeded_generator(recipe.seed, _STEPS, self.step, self.ranks.rank).initial_seed()
        )
        try:
            outcome = update(parts, self.step + 1, lambda: stop.requested)
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            raise UserError(self._too_large(parts)) from error
        self.step += 1
        if self.average and not outcome.problem:
            self.average.update(self.model)
        return outcome

    def _count(self, outcome: Outcome, seconds: float) -> None:
        self.sums["images"] += outcome.images
        self.sums["seconds"] += seconds
        if not outcome.problem:
            self.sums["loss"] += _loss(outcome) * outcome.images
            self.sums["learned"] += outcome.images
        bad = bool(outcome.problem) and not outcome.overflow
        self.bad_steps += bad
        self.bad_in_a_row = self.bad_in_a_row + 1 if bad else 0

    def _record(self, outcome: Outcome, seconds: float, waited: float) -> dict[str, Any]:
        parts = ("classification", "bbox_regression", "grad_norm")
        record = {
            "epoch": self.epoch + 1,
            "step": self.step,
            # JSON has no numbers that are not finite.
            **{p: v if math.isfinite(v := getattr(outcome, p)) else None for p in parts},
            "n_foreground": outcome.n_foreground,
            "lr": self.optimizer.param_groups[0]["lr"],
            "seconds": round(seconds, 4),
            "waited_for_data": round(waited, 4),
        }
        return record | ({"skipped": outcome.problem} if outcome.problem else {})

    def _warn(self, outcome: Outcome, parts: list[MicroBatch]) -> None:
        """Says what was skipped; `Diverged` where that goes on."""
        ids = [target["image_id"] for _, targets in parts for target in targets]
        everyone = self.ranks.gather(
            {"ids": np.array(ids, np.int64), "bad": np.array([outcome.own_problem])}
        )

        def tell() -> None:
            # Where no process's losses are to blame, the images of all are named.
            shares = [share["ids"] for share in everyone or () if share["bad"][0]]
            shares = shares or [share["ids"] for share in everyone or ()]
            names = self.dataset.names_of(np.concatenate(shares).tolist())
            text = f"{outcome.problem} in step {self.step}, on the images {', '.join(names)}"
            if self.bad_in_a_row >= self.recipe.max_bad_steps:
                raise Diverged(
                    f"training diverged: {text}; the losses or the gradient of "
                    f"{self.bad_in_a_row} step(s) in a row were not finite; a lower learning rate "
                    "may help"
                )
            tqdm.write(f"focaldet: step skipped: {text}", file=sys.stderr)

        self.ranks.first(tell)

    def close_epoch(self) -> dict[str, Any]:
        """Counts the epoch as finished; returns its record."""
        self.epoch += 1
        sums, self.sums = self.sums, dict.fromkeys(self.sums, 0.0)
        return {
            "epoch": self.epoch,
            "step": self.step,
            "loss": sums["loss"] / max(1, sums["learned"]),
            "bad_steps": self.bad_steps,
            "seconds": round(sums["seconds"], 3),
            "images_per_second": round(sums["images"] / sums["seconds"], 3),
        }

    def weights(self) -> dict[str, Tensor]:
        """What is to be kept: the weights, or their average. Those of rank 0 are the run's."""
        return self.average.weights if self.average else self.model.state_dict()

    def kept_model(self) -> RetinaNet:
        """The model of these weights, the same in every process."""
        model = self.model
        if self.average:
            model = copy.deepcopy(model)
            model.load_state_dict(self.average.weights)
        if self.ranks.world > 1:
            # Norms that are not synchronised have seen other images in each process.
            own = statistics(model)
            first = self.ranks.share({name: tensor.cpu() for name, tensor in own.items()})
            for name, tensor in first.items():
                own[name].copy_(tensor)
        return model

    def state(self) -> dict[str, Any]:
        """What `resume` needs beside the weights that are kept."""
        state = {
            "identity": self.identity,
            "step": self.step,
            "epoch_sums": self.sums,
            "bad_steps": [self.bad_steps, self.bad_in_a_row],
            "processes": self.ranks.world,
            "optimizer": self.optimizer.state_dict(),
            "scale": self.update.scaler.state_dict() if self.update else self.scale,
        }
        if self.average:  # the weights kept are the average
            state["weights"] = self.model.state_dict()
            state["average_updates"] = self.average.updates
        return state

    def resume(
        self,
        path: Path,
        weights: dict[str, Tensor],
        description: Description,
        state: dict[str, Any] | None,
    ) -> float:
        """Takes up a checkpoint's weights and the state beside them; returns its best AP."""
        if state is None:
            raise UserError(
                f"{path}: holds no training state to resume from; train anew, in another --out"
            )
        if differences := list(self._differences(state["identity"])):
            raise UserError(
                f"{path}: the run to resume has "
                + ", ".join(f"{name} {theirs}" for name, theirs, _ in differences)
                + "; this command has "
                + ", ".join(f"{name} {ours}" for name, _, ours in differences)
                + "; --resume goes on with the same command"
            )
        load_weights(self.model, state.get("weights", weights), path)
        load_optimizer_state(self.optimizer, state["optimizer"])
        if self.average:
            self.average.load(weights, state["average_updates"])
        self.epoch, self.step = description.epoch, state["step"]
        self.sums |= state.get("epoch_sums", {})
        self.bad_steps, self.bad_in_a_row = state.get("bad_steps", (0, 0))
        self.scale = state.get("scale", {})
        if self.ranks.main:
            self._tell_of_shares(state)
        best: float = state["best"]
        return best

    def _tell_of_shares(self, state: dict[str, Any]) -> None:
        """Says where a resumed run shares out its steps otherwise, and what comes of that."""
        recipe = self.recipe
        accumulated = state["identity"]["recipe"].get("accumulate", 1)
        changed = [
            f"{name}: {before} before, {now} now"
            for name, before, now in (
                ("processes", state.get("processes", 1), self.ranks.world),
                ("accumulate", accumulated, recipe.accumulate),
            )
            if before != now
        ]
        effect = "the steps stay the same, but for rounding"
        whole = recipe.sync_norm and accumulated == recipe.accumulate == 1
        if self._has_batch_norm() and not whole:
            effect = "BatchNorm normalises by other shares of the batch, so the steps differ"
        if changed:
            print(f"focaldet: {', '.join(changed)}; {effect}", file=sys.stderr)

    def _has_batch_norm(self) -> bool:
        """Whether a norm learns its statistics, from the images that it sees together."""
        return any(isinstance(module, _BatchNorm) for module in self.model.modules())

    def _differences(self, theirs: dict[str, Any]) -> Iterator[Difference]:
        for key, have in theirs.get("data", {"images": theirs.get("images")}).items():
            yield from same(key, have, self.identity["data"][key])
        yield from same("model", RetinaNet.complete(theirs["model"]), self.identity["model"])
        yield from Recipe.differences(theirs["recipe"], self.identity["recipe"])

    def _too_large(self, parts: list[MicroBatch]) -> str:
        images = [image for part, _ in parts for image in part]
        ids = [target["image_id"] for _, targets in parts for target in targets]
        but = " (but for BatchNorm)" if self._has_batch_norm() else ""
        height, width = (max((image.shape[side] for image in images), default=0) for side in (1, 2))
        return (
            f"out of memory in step {self.step + 1} (rank {self.ranks.rank}): {len(images)} images "
            f"of up to {height} x {width} pixels in {len(parts)} micro-batches, "
            f"{', '.join(self.dataset.names_of(ids))}; a higher --accumulate gives the same steps "
            f"in less memory{but}; so do, with other results, a lower --batch-size or --size, or "
            "--precision bfloat16"
        )

    def _bar(self) -> Any:
        return tqdm(
            total=len(self.dataset),
            initial=int(self.sums["images"]),
            desc=f"epoch {self.epoch + 1}/{self.recipe.epochs}",
            unit=" images",
            leave=False,
            disable=None if self.ranks.main else True,
        )


def _loss(outcome: Outcome) -> float:
    return outcome.classification + outcome.bbox_regression


def out_of_memory(error: BaseException) -> bool:
    """Of a GPU, or of the machine, of which torch's allocator tells by its name alone."""
    named = "DefaultCPUAllocator" in str(error)
    return named or isinstance(error, torch.OutOfMemoryError | MemoryError)
