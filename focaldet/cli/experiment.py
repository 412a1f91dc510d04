"""`focaldet experiment`."""

from __future__ import annotations

import argparse
import dataclasses
import fnmatch
from typing import Any

from .. import recipes
from ..data import DetectionDataset
from ..data.folder import open_folder
from ..data.transforms import Transform
from ..errors import UserError
from ..experiments import EXPERIMENTS, Experiment, run_experiment, write_report
from .common import add_device, add_skips, device
from .parser import Parser, positive

SUMMARY = "train the rows of one of the paper's tables on your data"
EXAMPLES = (
    "focaldet experiment fl-gamma --data BCCD --skip-bad-boxes --seeds 3 --out experiments",
    "focaldet experiment ohem --data BCCD --rows 'OHEM, 512*' 'FL*' --out experiments",
)


def add_arguments(parser: Parser) -> None:
    add = parser.add_argument
    add("name", choices=EXPERIMENTS, metavar="NAME", help=_names())
    add("--data", required=True, metavar="DIR", help="folder with the splits train and val")
    add("--out", required=True, metavar="DIR", help="folder of all experiments on this data")
    add("--seeds", type=positive, default=3, help="runs of each row")
    add("--recipe", default=recipes.DEFAULT, metavar="NAME", help="that the rows change")
    add(
        "--backbone-weights",
        nargs="+",
        metavar="FILE",
        help="as of train, to start from; of several each run takes the first that fits",
    )
    add("--rows", nargs="+", metavar="LABEL", help="of these rows alone; * for any text")
    add("--cache", metavar="DIR", help="keep decoded images here, for other epochs and runs")
    add_skips(add)
    add_device(add)


def _names() -> str:
    return "; ".join(f"{e.name} (Table {e.table}): {e.title}" for e in EXPERIMENTS.values())


def run(args: argparse.Namespace) -> None:
    experiment = _with_rows(EXPERIMENTS[args.name], args.rows)
    options: dict[str, Any] = {
        name: getattr(args, name) for name in ("cache", "skip_bad_images", "skip_bad_boxes")
    }

    def open_split(split: str, transform: Transform) -> DetectionDataset:
        return open_folder(args.data, split, transform=transform, **options)

    file = run_experiment(
        experiment,
        recipes.load(args.recipe),
        open_split,
        args.out,
        range(args.seeds),
        device(args.device),
        args.backbone_weights or (),
    )
    print(f"{write_report(file)}\n\nwrote {file.parent}")


def _with_rows(experiment: Experiment, patterns: list[str] | None) -> Experiment:
    rows = experiment.rows
    if patterns:
        rows = tuple(r for r in rows if any(fnmatch.fnmatch(r.label, p) for p in patterns))
    if not rows:
        labels = "; ".join(row.label for row in experiment.rows)
        raise UserError(f"--rows {' '.join(patterns or ())}: no such row; expected of: {labels}")
    return dataclasses.replace(experiment, rows=rows)
