"""`focaldet train`."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Iterable
from typing import Any

import torch

from .. import recipes
from ..checkpoint import generations
from ..data.folder import names_a_folder
from ..distributed import TIMEOUT, Ranks, join
from ..errors import UserError
from ..models import V2
from ..models.backbones import check_backbone
from ..models.losses import LOSSES
from ..models.resnet import NORMS
from ..recipes import DEFAULT, FLIPS, Configuration
from ..train import BEST, LAST, PRECISIONS, Recipe, train
from ..train.optim import OPTIMIZERS, SCHEDULES
from ..weights import load_body
from .common import Add, add_data, add_device, add_evaluator, dataset, device, print_scores
from .parser import Parser, anchor, count, fraction, number, positive, seconds, size, weight

SUMMARY = "train a detector on COCO JSON, Pascal VOC or YOLO data"
EXAMPLES = (
    "focaldet train --train train.json --val val.json --images images --out runs/cells",
    "focaldet train --data BCCD --size 320 --epochs 12 --out runs/cells",
    "focaldet train --data BCCD --recipe modern --out runs/modern",
    "torchrun --nproc-per-node 8 -m focaldet train --data BCCD --out runs/cells",
)

Switch = argparse.BooleanOptionalAction  # --name and --no-name: None if neither is given

# Arguments of RetinaNet; v1 has its defaults, whatever the recipe says.
PRESETS: dict[str | None, dict[str, Any]] = {"v1": dict.fromkeys(V2), "v2": {**V2}}


def add_arguments(parser: Parser) -> None:
    parser.add_argument("--out", required=True, metavar="DIR", help="folder of the run")
    parser.add_argument(
        "--recipe",
        default=DEFAULT,
        metavar="NAME",
        help="what the arguments below change; see `focaldet recipes`, or a .toml file of your own",
    )
    parser.add_argument(
        "--resume", action="store_true", help="go on with the run in --out, by the same command"
    )
    for title, add_group in {
        "data": _add_data,
        "model": _add_model,
        "training": _add_training,
        "speed and memory": _add_speed,
        "keeping": _add_keeping,
    }.items():
        add_group(parser.add_argument_group(title).add_argument)
    parser.set_defaults(evaluator=None)
    _tell_defaults(parser)


def _tell_defaults(parser: Parser) -> None:
    """An argument that is not given is the recipe's: the help tells those of the default one."""
    setup = recipes.load(DEFAULT)
    values = {
        **setup.model_arguments(),
        **setup.make_recipe().as_dict(),
        "flip": setup.flip,
        "size": setup.model["max_size"],
        "anchor_size": setup.anchors["sizes"][0],
    }
    for action in parser._actions:
        value = values.get(action.dest)
        if action.default is None and value is not None and value is not False:
            action.help = f"{action.help} ({DEFAULT}: {value})"


def _add_data(add: Add) -> None:
    add("--data", metavar="DIR", help="folder with both splits, in a form that is found out")
    add("--train", metavar="JSON", help="training annotations, COCO")
    add("--val", metavar="JSON", help="validation annotations, COCO")
    add("--images", metavar="DIR", help="folder of the images")
    add("--val-images", metavar="DIR", help="folder of the validation images, if another")
    add("--train-split", default="train", metavar="NAME", help="of a folder")
    add("--val-split", default="val", metavar="NAME", help="of a folder")
    add_data(add)
    add("--flip", choices=FLIPS, help="random flips in training")


def _add_model(add: Add) -> None:
    add(
        "--preset",
        choices=PRESETS,
        help="v2: as torchvision's, GroupNorm, GIoU, P6 from C5; v1: none of these",
    )
    add("--backbone", type=_backbone, help="a ResNet, or timm/<name>")
    add(
        "--backbone-weights",
        metavar="FILE",
        help='of a classifier to start from; "download": those that timm publishes for timm/<name>',
    )
    add("--norm", choices=NORMS, help="of the backbone, if it is no timm/<name>")
    add("--size", type=size, help="longest side of an image, in pixels")
    add("--anchor-size", type=anchor, help="of the smallest anchors, in pixels")
    add("--loss", choices=LOSSES, help="of the classification")
    add("--alpha", type=weight, help="weight of the foreground in the loss")
    add("--gamma", type=number, help="focusing exponent of the focal loss")


def _add_training(add: Add) -> None:
    add("--epochs", type=positive, help="passes over the training data")
    add("--batch-size", type=positive, help="of a step, in all")
    add("--optimizer", choices=OPTIMIZERS, help="with SGD, momentum 0.9")
    add("--lr", type=number, help="peak learning rate; adamw: 5e-4; sgd: 0.01 for 16 images")
    add("--weight-decay", type=number, help="not of norms and biases; adamw: 0.01; sgd: 1e-4")
    add("--schedule", choices=SCHEDULES, help="of the learning rate")
    add("--warmup", type=count, help="steps; onecycle has its own")
    add("--clip-norm", type=number, help="of the gradient; 0: none")
    add("--ema", type=fraction, help="decay of averaged weights; 0: none")
    add("--sync-norm", action=Switch, help="BatchNorm over the images of all processes")
    add("--seed", type=count, help="of weights, order and flips")


def _add_speed(add: Add) -> None:
    add("--precision", choices=PRECISIONS, help="half types: autocast")
    add("--accumulate", type=positive, help="micro-batches in a step")
    add("--compile", action=Switch, help="the losses, from images on, by torch.compile")
    add("--workers", type=count, help="processes that load images")
    add_device(add)


def _add_keeping(add: Add) -> None:
    add("--eval-every", type=positive, help="epochs")
    add(
        "--save-every",
        type=count,
        metavar="STEPS",
        help="between checkpoints within an epoch; 0: after epochs alone",
    )
    add(
        "--max-bad-steps",
        type=positive,
        help="in a row that have no finite loss, before training stops",
    )
    add("--max-detections", type=positive, help="boxes of an image that are scored")
    add_evaluator(add)
    add("--tensorboard", action=Switch, help="events, too (focaldet[tensorboard])")
    add("--profile", action=Switch, help="write trace.json, of a few steps")
    add(
        "--timeout",
        type=seconds,
        default=TIMEOUT,
        metavar="SECONDS",
        help="without progress of a process that others wait for (torchrun)",
    )


def run(args: argparse.Namespace) -> None:
    _check_data(args)
    with join(args.device and device(args.device), args.timeout) as ranks:
        _run_as(ranks, args)


def _check_data(args: argparse.Namespace) -> None:
    """The data is named in one way, and as a whole."""
    folders = [name for name in ("--data", "--voc", "--yolo") if vars(args)[name[2:]]]
    coco = {"--train": args.train, "--val": args.val, "--images": args.images}
    files = [name for name, given in (coco | {"--val-images": args.val_images}).items() if given]
    missing = [name for name, given in coco.items() if not given]
    if not (folders or files):
        raise UserError("expected --data, or --train, --val and --images")
    if len(folders) > 1 or (folders and files):
        raise UserError(f"{' and '.join([*folders, *files])}: the data is named twice")
    if not folders and missing:
        raise UserError(f"{' and '.join(files)}: expected {' and '.join(missing)} beside")
    if args.data and not names_a_folder(args.data):
        raise UserError(
            f"--data {args.data}: is no folder; COCO files are for --train, --val and --images"
        )


def _run_as(ranks: Ranks, args: argparse.Namespace) -> None:
    """What each process of a run does, by the same arguments."""
    setup = configuration(args)
    if not (args.backbone_weights or args.resume):
        setup.refuse_frozen("--backbone-weights, or --norm batch or group")
    train_set = dataset(
        args, args.data or args.train, args.images, args.train_split, setup.train_transform()
    )
    val_set = dataset(
        args,
        args.data or args.val,
        args.val_images or args.images,
        args.val_split,
        setup.eval_transform(),
    )
    recipe = setup.make_recipe()
    torch.manual_seed(recipe.seed)
    model = setup.make_model(train_set.num_classes)
    # What torchrun has started again goes on, if it had come to a checkpoint. Rank 0 says so: other
    # machines may see the folder as it was.
    resume = args.resume or (ranks.again and ranks.first(lambda: bool(generations(args.out))))
    if args.backbone_weights and not resume:  # a resumed run has its own
        load_body(model, args.backbone_weights)
    scores = train(model, train_set, val_set, args.out, recipe, ranks=ranks, resume=resume)
    if ranks.main:
        print_scores(scores, val_set.to_coco())
        print(f"\n{args.out}: {BEST}, {LAST}, metrics.jsonl, curves.png")


def configuration(args: argparse.Namespace) -> Configuration:
    """The recipe, with what the arguments change of it."""
    given = {k: v for k, v in vars(args).items() if v is not None}

    def some(names: Iterable[str]) -> dict[str, Any]:
        return {name: given[name] for name in names if name in given}

    setup = recipes.load(args.recipe)
    model = PRESETS.get(args.preset, {}) | some(("backbone", "norm", "loss", "alpha", "gamma"))
    if args.size:
        model |= {"min_size": args.size, "max_size": args.size}
        # Windows and sizes that are meant for images of another size; scales are for any.
        data = {k: v for k, v in setup.data.items() if k not in ("min_sizes", "crop")}
        setup = dataclasses.replace(setup, data=data)
    anchors = {}
    if args.anchor_size:
        anchors["sizes"] = [args.anchor_size * 2**level for level in range(5)]
    setup = setup.with_(
        model=model,
        anchors=anchors,
        data=some(("flip",)),
        train=some(field.name for field in dataclasses.fields(Recipe)),
    )
    return setup.with_published_statistics() if args.backbone_weights else setup


def _backbone(text: str) -> str:
    try:
        return check_backbone(text)
    except UserError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
