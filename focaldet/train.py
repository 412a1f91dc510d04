"""Training: one loop, repeatable from a seed, resumable after every epoch."""

from __future__ import annotations

import copy
import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from .checkpoint import Description, load_checkpoint, load_weights, save_checkpoint
from .data import Batches, DetectionDataset, Target
from .errors import UserError
from .evaluate import Scores, evaluate_model
from .history import History
from .models import RetinaNet
from .models.retinanet import Losses
from .models.winograd import use_winograd
from .optim import Average, load_optimizer_state, make_optimizer, schedule_factor

LAST, BEST = "last.safetensors", "best.safetensors"
PRECISIONS = ("float32", "bfloat16")


@dataclass(frozen=True)
class Recipe:
    """How to train. The defaults are the recipe behind the table in docs/guides/train.md."""

    epochs: int = 12
    batch_size: int = 8
    optimizer: str = "adamw"  # one of optim.OPTIMIZERS
    lr: float | None = None  # at its peak; None: the optimizer's usual one
    weight_decay: float | None = None  # None: the optimizer's usual one
    schedule: str = "onecycle"  # one of optim.SCHEDULES
    warmup: int = 100  # steps; onecycle has its own
    clip_norm: float = 1.0  # largest norm of the gradient; 0: not clipped
    precision: str = "float32"  # one of PRECISIONS; bfloat16: autocast, weights stay float32
    ema: float = 0.0  # decay of the averaged weights, e.g. 0.999; 0: none
    eval_every: int = 1  # epochs; the last epoch always is
    seed: int = 0
    workers: int = 2  # processes that load images, for training and as many for evaluation


def train(
    model: RetinaNet,
    train_set: DetectionDataset,
    val_set: DetectionDataset,
    out: str | Path,
    recipe: Recipe | None = None,
    *,
    device: str | torch.device = "cpu",
    resume: bool = False,
) -> Scores:
    """Trains the model and returns the scores, on `val_set`, of its last epoch.

    The data sets bring their transforms with them. Into the folder `out` go `last.safetensors`
    (after every epoch), `best.safetensors` (by AP), `metrics.jsonl` and `curves.png`.

    The same model, data, recipe and number of threads give the same weights, bit for bit, whether
    or not the run was interrupted and taken up again with `resume`, which goes on after the last
    epoch that was finished. Raises `UserError` if `out` holds a run already (or none, or that of
    another recipe or model, to resume), if the classes of the data sets differ, and if the loss
    stops being finite, naming the images of that batch.
    """
    recipe = recipe or Recipe()
    if (val_set.class_names, val_set.category_ids) != (
        train_set.class_names,
        train_set.category_ids,
    ):
        raise UserError(
            f"training and validation data differ in their categories: {train_set.class_names} "
            f"with ids {train_set.category_ids}, and {val_set.class_names} with ids "
            f"{val_set.category_ids}; give both the same ones"
        )
    out = _folder(Path(out), resume)
    run = _Run(model, train_set, recipe, torch.device(device))
    best, scores = run.resume(out / LAST) if resume else (-math.inf, {})
    history = History(out, run.epoch)
    batches = Batches(
        train_set, recipe.batch_size, seed=recipe.seed, workers=recipe.workers, shuffle=True
    )
    while run.epoch < recipe.epochs:
        record = run.train_epoch(batches, history)
        kept = run.weighted_model()
        improved = False
        if run.epoch % recipe.eval_every == 0 or run.epoch == recipe.epochs:
            scores = evaluate_model(kept, val_set, None, recipe.batch_size, recipe.workers)
            record["stats"] = scores["stats"]
            improved = scores["stats"]["AP"] > best
            best = max(best, scores["stats"]["AP"])
        history.add(record)
        description = Description(
            model.config, train_set.class_names, train_set.category_ids, run.epoch, scores
        )
        if improved:
            save_checkpoint(out / BEST, kept.state_dict(), description)
        save_checkpoint(out / LAST, kept.state_dict(), description, run.state() | {"best": best})
        history.draw()
        print(_summary(record, recipe.epochs), flush=True)
    if train_set.skipped or val_set.skipped:
        print(
            f"bad images skipped: {len(train_set.skipped)} in training, "
            f"{len(val_set.skipped)} in validation"
        )
    return scores


class _Run:
    """What changes from step to step: weights, optimizer, average, and how far it has come."""

    def __init__(
        self, model: RetinaNet, train_set: DetectionDataset, recipe: Recipe, device: torch.device
    ) -> None:
        self.recipe, self.device = recipe, device
        # channels_last: what cuDNN's and bfloat16 convolutions prefer; the losses read it in place.
        self.model = model.to(device).to(memory_format=torch.channels_last)
        use_winograd(self.model)
        self.optimizer = make_optimizer(
            model, recipe.optimizer, recipe.lr, recipe.weight_decay, recipe.batch_size
        )
        self.peaks = [group["lr"] for group in self.optimizer.param_groups]
        self.average = Average(model, recipe.ema) if recipe.ema else None
        self.steps_per_epoch = -(-len(train_set) // recipe.batch_size)
        self.epoch = 0  # epochs finished
        self.step = 0  # updates done
        # What a resumed run must have in common with the run that it goes on with.
        self.identity = {
            "recipe": asdict(recipe) | {"workers": None, "eval_every": None},
            "images": len(train_set),
            "model": model.config,
        }

    def train_epoch(self, batches: Batches, history: History) -> dict[str, Any]:
        """One pass over the data; returns the record of the epoch."""
        self.model.train()
        start, total, images_done = time.perf_counter(), 0.0, 0
        # cuDNN would otherwise take algorithms whose sums differ from run to run.
        repeatable = torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True)
        with (
            repeatable,
            tqdm(
                total=len(batches.dataset),
                desc=f"epoch {self.epoch + 1}/{self.recipe.epochs}",
                unit=" images",
                leave=False,
                disable=None,
            ) as bar,
        ):
            for images, targets in batches.epoch(self.epoch):
                record = self.train_step(images, targets, batches.dataset)
                history.add(record)
                loss = record["classification"] + record["bbox_regression"]
                total += loss * len(images)
                images_done += len(images)
                bar.set_postfix(loss=f"{loss:.3f}", refresh=False)
                bar.update(len(images))
        self.epoch += 1
        seconds = time.perf_counter() - start
        return {
            "epoch": self.epoch,
            "step": self.step,
            "loss": total / images_done,
            "seconds": round(seconds, 3),
            "images_per_second": round(images_done / seconds, 3),
        }

    def train_step(
        self, images: list[Tensor], targets: list[Target], dataset: DetectionDataset
    ) -> dict[str, Any]:
        """One update; returns its record."""
        factor = schedule_factor(
            self.recipe.schedule,
            self.step,
            self.recipe.epochs * self.steps_per_epoch,
            self.recipe.warmup,
        )
        for group, peak in zip(self.optimizer.param_groups, self.peaks, strict=True):
            group["lr"] = peak * factor
        losses = self._losses(images, targets)
        self.optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(losses.classification + losses.bbox_regression)
        norm = nn.utils.clip_grad_norm_(
            self.model.parameters(), self.recipe.clip_norm or math.inf
        ).item()
        record = {
            "epoch": self.epoch + 1,
            "step": self.step + 1,
            "classification": losses.classification.item(),
            "bbox_regression": losses.bbox_regression.item(),
            "n_foreground": losses.n_foreground.item(),
            "grad_norm": norm,
            "lr": self.peaks[0] * factor,
        }
        for part in ("classification", "bbox_regression", "grad_norm"):
            if not math.isfinite(record[part]):
                ids = {target["image_id"] for target in targets}
                names = [i["file_name"] for i in dataset.to_coco()["images"] if i["id"] in ids]
                raise UserError(
                    f"training diverged: {part} is {record[part]} in step {record['step']} of "
                    f"epoch {record['epoch']}, on the images {', '.join(names)}; "
                    "expected a finite number (a lower learning rate may help)"
                )
        self.optimizer.step()
        self.step += 1
        if self.average:
            self.average.update(self.model)
        return record

    def _losses(self, images: list[Tensor], targets: list[Target]) -> Losses:
        images = [image.to(self.device, non_blocking=True) for image in images]
        batch, _, scales = self.model.transform.images(images)
        packed = self.model.transform.targets(targets, scales, self.model.num_classes)
        bfloat16 = self.recipe.precision == "bfloat16"
        with torch.autocast(self.device.type, torch.bfloat16, enabled=bfloat16):
            return self.model.loss(batch, *packed)

    def weighted_model(self) -> RetinaNet:
        """The model to evaluate and to keep: the one trained, or one with the averaged weights."""
        if self.average is None:
            return self.model
        model = copy.deepcopy(self.model)
        model.load_state_dict(self.average.weights)
        return model

    def state(self) -> dict[str, Any]:
        """What `resume` needs beside the weights that are kept."""
        state = {
            "identity": self.identity,
            "step": self.step,
            "optimizer": self.optimizer.state_dict(),
        }
        if self.average:  # the weights kept are the average
            state["weights"] = self.model.state_dict()
            state["average_updates"] = self.average.updates
        return state

    def resume(self, path: Path) -> tuple[float, Scores]:
        """Takes up the state in a checkpoint; returns its best AP and latest scores."""
        weights, description, state = load_checkpoint(path, training=True)
        if state is None:
            raise UserError(
                f"{path}: holds no training state to resume from; train anew, in another --out"
            )
        theirs = state["identity"] | {"model": RetinaNet.complete(state["identity"]["model"])}
        for part in ("images", "model", "recipe"):
            for key, (have, want) in _differences(theirs[part], self.identity[part], part).items():
                raise UserError(
                    f"{path}: the run to resume has {key} {have}, this command {want}; --resume "
                    "goes on with the same command"
                )
        load_weights(self.model, state.get("weights", weights), path)
        load_optimizer_state(self.optimizer, state["optimizer"])
        if self.average:
            self.average.load(weights, state["average_updates"])
        self.epoch, self.step = description.epoch, state["step"]
        return state["best"], description.metrics


def _differences(theirs: Any, ours: Any, name: str) -> dict[str, tuple[Any, Any]]:
    if isinstance(theirs, dict) and isinstance(ours, dict):
        pairs = {key: (theirs.get(key), ours.get(key)) for key in theirs | ours}
    else:
        pairs = {name: (theirs, ours)}
    return {key: pair for key, pair in pairs.items() if pair[0] != pair[1]}


def _folder(out: Path, resume: bool) -> Path:
    if resume and not (out / LAST).is_file():
        raise UserError(f"{out}: no {LAST} to resume from; leave out --resume to begin")
    if not resume and (out / LAST).exists():
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
    return out


def _summary(record: dict[str, Any], epochs: int) -> str:
    text = f"epoch {record['epoch']}/{epochs}  loss {record['loss']:.3f}"
    if "stats" in record:
        text += f"  AP {record['stats']['AP']:.3f}  AP50 {record['stats']['AP50']:.3f}"
    return f"{text}  {record['images_per_second']:.1f} images/s  {record['seconds']:.0f} s"
