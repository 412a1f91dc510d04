"""Runs an experiment: every row of it with every seed, each run in a folder of its own.

A run is named by what it is (recipe, data, seed), not by the table it is for: rows that several
tables share are trained once, what is done is never done again, and a run that was cut goes on from
its last checkpoint. A process takes one run after the other and leaves alone what another process
is at: the same command started twice, on two GPUs or halves of a CPU, shares out the work.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import re
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from ..checkpoint import LAST, PREVIOUS, generations
from ..data import DetectionDataset
from ..data.transforms import Transform
from ..detect import detect_batch
from ..errors import Diverged, UserError
from ..files import read_json, write_atomically
from ..models import RetinaNet, for_inference
from ..recipes import Configuration
from ..train import train
from ..words import counted
from .results import RESULTS
from .rows import Experiment, Row

RUNS, DONE = "runs", "run.json"
TIMED_IMAGES = 20


OpenSplit = Callable[[str, Transform], DetectionDataset]


def run_experiment(
    experiment: Experiment,
    setup: Configuration,
    open_split: OpenSplit,  # "train" or "val", and its transform
    out: str | Path,
    seeds: Sequence[int],
    device: str = "cpu",
    note: Callable[[str], None] = print,
) -> Path:
    """Trains what is not done yet; returns the path of the results, `<out>/<name>/results.json`.

    `setup` is the recipe that each row changes. A run that diverges is done: the results say so in
    place of its scores. Raises `UserError` for data without boxes or without a split, for values
    that the recipe does not take, and where a run fails otherwise, naming it; what is done is kept.
    """
    setup.refuse_frozen(f"a recipe of your own with base = {setup.name!r} and another norm")
    out = Path(out)
    todo = [(row, seed) for seed in seeds for row in experiment.rows]
    file = out / experiment.name / RESULTS
    file.parent.mkdir(parents=True, exist_ok=True)
    described = _describe_data(open_split, setup)
    note(_in_words(described))
    for number, (row, seed) in enumerate(todo, start=1):
        configuration = _changed(setup, row, seed)
        folder = out / RUNS / _name(row, configuration, described, seed)
        with _claimed(folder) as mine:
            if mine and not (folder / DONE).exists():
                note(f"{experiment.name} {number}/{len(todo)}: {row.label}, seed {seed}")
                _run(configuration, open_split, folder, device, experiment.timed, note)
        collect(experiment, setup, described, out, seeds)
    return file


def collect(
    experiment: Experiment,
    setup: Configuration,
    described: Mapping[str, Any],
    out: Path,
    seeds: Sequence[int],
) -> dict[str, Any]:
    """Writes the results of the runs that are done, and returns them."""
    rows = []
    for row in experiment.rows:
        done = []
        for seed in seeds:
            name = _name(row, _changed(setup, row, seed), described, seed)
            if (out / RUNS / name / DONE).exists():
                done.append({"seed": seed, **read_json(out / RUNS / name / DONE)})
        rows.append(
            {
                "label": row.label,
                "changes": {table: dict(values) for table, values in row.changes.items()},
                "paper": row.paper,
                "runs": [run for run in done if "stats" in run],
                "diverged": [run for run in done if "stats" not in run],
            }
        )
    results = {
        "experiment": experiment.name,
        "table": experiment.table,
        "recipe": {"name": Path(setup.name).stem, **setup.tables()},
        "data": dict(described),
        "seeds": list(seeds),
        "rows": rows,
    }
    text = json.dumps(results, indent=1) + "\n"
    write_atomically(out / experiment.name / RESULTS, text.encode())
    return results


def _describe_data(open_split: OpenSplit, setup: Configuration) -> dict[str, Any]:
    """What the results are of. Both splits are opened here: what is wrong with one is said before
    anything is trained."""
    sets = {
        "train": open_split("train", setup.train_transform()),
        "val": open_split("val", setup.eval_transform()),
    }
    digest = hashlib.sha256("".join(s.table.digest() for s in sets.values()).encode()).hexdigest()
    return {
        "classes": sets["train"].class_names,
        "images": {split: len(data) for split, data in sets.items()},
        "boxes": {split: len(data.table.boxes) for split, data in sets.items()},
        "digest": digest[:12],
    }


def _in_words(described: Mapping[str, Any]) -> str:
    splits = [
        f"{counted(described['images'][split], 'image')} with "
        f"{counted(described['boxes'][split], 'box', 'boxes')} to {purpose}"
        for split, purpose in (("train", "train"), ("val", "validate"))
    ]
    classes = described["classes"]
    named = ", ".join([*classes[:5], *["..."] * (len(classes) > 5)])
    return f"{', '.join(splits)}, {counted(len(classes), 'class', 'classes')}: {named}"


def _changed(setup: Configuration, row: Row, seed: int) -> Configuration:
    return setup.with_(**row.changes).with_(train={"seed": seed})


def _name(row: Row, configuration: Configuration, data: Mapping[str, Any], seed: int) -> str:
    """Of a run's folder: the same for the same recipe, data and seed, whatever the table."""
    identity = json.dumps([configuration.tables(), data["digest"]], sort_keys=True)
    slug = re.sub(r"[^a-z0-9.]+", "-", row.label.lower()).strip("-")
    return f"{slug}-seed{seed}-{hashlib.sha256(identity.encode()).hexdigest()[:8]}"


@contextmanager
def _claimed(folder: Path) -> Iterator[bool]:
    """Whether no other process has the folder; while the context lasts, none will."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # let go of when the process ends
        except BlockingIOError:  # another has it; a file system without locks is an error
            yield False
        else:
            yield True


def _run(
    configuration: Configuration,
    open_split: OpenSplit,
    folder: Path,
    device: str,
    timed: bool,
    note: Callable[[str], None],
) -> None:
    train_set = open_split("train", configuration.train_transform())
    val_set = open_split("val", configuration.eval_transform())
    recipe = configuration.make_recipe()
    torch.manual_seed(recipe.seed)
    model = configuration.make_model(train_set.num_classes)
    resume = bool(generations(folder))
    start = time.perf_counter()
    try:
        scores = train(model, train_set, val_set, folder, recipe, device=device, resume=resume)
    except Diverged as error:
        note(str(error))
        _keep(folder, {"diverged": str(error)})
        return
    except UserError as error:
        raise UserError(f"{folder.name}: {error}") from error
    record = {
        "stats": scores["stats"],
        "per_class_AP": scores["per_class_AP"],
        "minutes": None if resume else round((time.perf_counter() - start) / 60, 2),
        "torch": torch.__version__,
        "device": device,
        "threads": torch.get_num_threads(),
    }
    if timed:
        record["milliseconds"] = _milliseconds(model, val_set)
    _keep(folder, record)


def _keep(folder: Path, record: Mapping[str, Any]) -> None:
    """Makes a run one that is done."""
    write_atomically(folder / DONE, (json.dumps(record, indent=1) + "\n").encode())
    for name in (LAST, PREVIOUS):  # what only a run that is not done needs, twice the weights
        (folder / name).unlink(missing_ok=True)


def _milliseconds(model: RetinaNet, dataset: DetectionDataset) -> float:
    """Median time from a loaded image to its boxes, one image at a time, the first left out."""
    model = for_inference(model.eval())
    times = []
    for index in range(1 + TIMED_IMAGES):
        image, target = dataset[index % len(dataset)]
        start = time.perf_counter()
        detect_batch(model, [image], [target["original_size"]])  # its results are on the CPU
        times.append(time.perf_counter() - start)
    return round(1000 * statistics.median(times[1:]), 2)
