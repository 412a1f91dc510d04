"""Runs an experiment: every row of it with every seed, each run in a folder of its own.

A run is named by what it is (recipe, weights, data, seed), not by the table it is for: rows that
several tables share are trained once, what is done is never done again, and a run that was cut goes
on from its last checkpoint. A process takes one run after the other and leaves alone what another
process is at: the same command started twice, on two GPUs or halves of a CPU, shares out the
work.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
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
from .bodies import Bodies
from .plan import Planned, plan
from .results import RESULTS
from .rows import Experiment

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
    backbone_weights: Sequence[str | Path] = (),
    note: Callable[[str], None] = print,
) -> Path:
    """Trains what is not done yet; returns the path of the results, `<out>/<name>/results.json`.

    `setup` is the recipe that each row changes. `backbone_weights` are files of classifiers, as
    `focaldet.weights.load_body` takes them: each run begins with the first that fits its backbone,
    and with random weights where none is given. A run that diverges is done: the results say so in
    place of its scores. Raises `UserError` for data without boxes or without a split, for values
    that the recipe does not take, for weights of another backbone, and where a run fails otherwise,
    naming it; what is done is kept.
    """
    bodies = Bodies(backbone_weights)
    out = Path(out)
    file = out / experiment.name / RESULTS
    file.parent.mkdir(parents=True, exist_ok=True)
    described = _describe_data(open_split, setup)
    note(_in_words(described))
    planned = plan(experiment, setup, bodies, described["digest"], seeds)
    for number, run in enumerate(planned, start=1):
        folder = out / RUNS / run.name
        with _claimed(folder) as mine:
            if mine and not (folder / DONE).exists():
                note(f"{experiment.name} {number}/{len(planned)}: {run.row.label}, seed {run.seed}")
                _run(run, bodies, open_split, folder, device, experiment.timed, note)
        _collect(experiment, setup, described, out, planned)
    return file


def _collect(
    experiment: Experiment,
    setup: Configuration,
    described: Mapping[str, Any],
    out: Path,
    planned: Sequence[Planned],
) -> None:
    """Writes the results of the runs that are done."""
    rows = []
    for row in experiment.rows:
        of_row = [(run.seed, out / RUNS / run.name / DONE) for run in planned if run.row == row]
        done = [{"seed": seed, **read_json(file)} for seed, file in of_row if file.exists()]
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
        "seeds": sorted({run.seed for run in planned}),
        "rows": rows,
    }
    text = json.dumps(results, indent=1) + "\n"
    write_atomically(out / experiment.name / RESULTS, text.encode())


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
    run: Planned,
    bodies: Bodies,
    open_split: OpenSplit,
    folder: Path,
    device: str,
    timed: bool,
    note: Callable[[str], None],
) -> None:
    configuration = run.configuration
    train_set = open_split("train", configuration.train_transform())
    val_set = open_split("val", configuration.eval_transform())
    recipe = configuration.make_recipe()
    torch.manual_seed(recipe.seed)
    model = configuration.make_model(train_set.num_classes)
    resume = bool(generations(folder))
    if bodies and not resume:  # a resumed run has its own weights
        bodies.load(model)
    start = time.perf_counter()
    try:
        scores = train(model, train_set, val_set, folder, recipe, device=device, resume=resume)
    except Diverged as error:
        note(str(error))
        _keep(folder, {"diverged": str(error)})
        return
    except UserError as error:
        raise UserError(f"{folder.name}: {error}") from error
    record: dict[str, Any] = {
        "stats": scores["stats"],
        "per_class_AP": scores["per_class_AP"],
        "minutes": None if resume else round((time.perf_counter() - start) / 60, 2),
        "torch": torch.__version__,
        "device": device,
        "threads": torch.get_num_threads(),
    }
    if run.body:
        record["backbone_weights"] = dict(run.body)
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
