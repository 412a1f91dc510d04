"""The arguments of the command line: names, defaults, ranges and help."""

from __future__ import annotations

import argparse
import difflib
import math
import re
from collections.abc import Callable
from typing import Any, NoReturn

from . import __version__
from .detect import BATCH
from .distributed import TIMEOUT
from .errors import UserError
from .models import V2
from .models.backbones import check_backbone
from .models.losses import LOSSES
from .models.resnet import NORMS
from .scoring import EVALUATORS
from .train import PRECISIONS, Recipe
from .train.optim import OPTIMIZERS, SCHEDULES
from .weights.convert import EPS, LAYOUTS
from .weights.layouts import STYLES

PRESETS: dict[str, dict[str, Any]] = {"v1": {}, "v2": {**V2}}  # arguments of RetinaNet
FLIPS = {"both": (0.5, 0.5), "horizontal": (0.5, 0.0), "none": (0.0, 0.0)}  # horizontal, vertical


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}{_nearest_choice(message)} (see {self.prog} --help)")


def _nearest_choice(message: str) -> str:
    """What argparse's "invalid choice" may have meant."""
    found = re.search(r"invalid choice: '(.*)' \(choose from (.*)\)", message)
    near = difflib.get_close_matches(found[1], re.findall(r"[\w-]+", found[2])) if found else ()
    return f"; did you mean {near[0]}?" if near else ""


def make_parser() -> argparse.ArgumentParser:
    parser = _Parser(
        "focaldet",
        description="Train, evaluate and run a RetinaNet detector.",
        epilog=_examples("focaldet demo", "focaldet train --help"),
        formatter_class=_HelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"focaldet {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="command")

    def command(name: str, summary: str, *examples: str) -> argparse.ArgumentParser:
        return commands.add_parser(
            name,
            help=summary,
            description=f"{summary[0].upper()}{summary[1:]}.",
            epilog=_examples(*examples),
            formatter_class=_HelpFormatter,
        )

    _add_demo(
        command(
            "demo",
            "train and evaluate a small detector on generated scenes, in minutes",
            "focaldet demo --out focaldet-demo",
        )
    )
    command("env", "print versions, what was built, and the hardware in use", "focaldet env")
    _add_train(
        command(
            "train",
            "train a detector on COCO JSON or Pascal VOC data",
            "focaldet train --train train.json --val val.json --images images --out runs/cells",
            "focaldet train --voc BCCD --size 320 --epochs 12 --out runs/cells",
            "torchrun --nproc-per-node 8 -m focaldet train --voc BCCD --out runs/cells",
        )
    )
    _add_evaluate(
        command(
            "evaluate",
            "score a model, or a file of detections, as pycocotools does",
            "focaldet evaluate --weights runs/cells/best.safetensors --data val.json "
            "--images images",
            "focaldet evaluate --data val.json --detections detections.json --json scores.json",
        )
    )
    _add_detect(
        command(
            "detect",
            "draw the detections of a model on image files",
            "focaldet detect photo.jpg folder --weights runs/cells/best.safetensors --out pictures",
        )
    )
    _add_convert(
        command(
            "convert",
            "make a checkpoint from a RetinaNet of torchvision, detectron2 or mmdetection",
            "focaldet convert RetinaNet_R_50_FPN_3x.pkl --out coco.safetensors",
            "focaldet convert cells.pth --class-names cells.txt --out cells.safetensors",
        )
    )
    _add_export(
        command(
            "export",
            "compile a model, or write its graph, to run without its Python",
            "focaldet export --weights runs/cells/best.safetensors --out cells.pt2",
        )
    )
    return parser


def _examples(*lines: str) -> str:
    return "\n  ".join(["example:" if len(lines) == 1 else "examples:", *lines])


class _HelpFormatter(argparse.RawDescriptionHelpFormatter, argparse.ArgumentDefaultsHelpFormatter):
    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.default in (None, False):
            return action.help
        return super()._get_help_string(action)


def _add_demo(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", default="focaldet-demo", metavar="DIR", help="folder to write")
    parser.add_argument("--seed", type=_count, default=0, help="of scenes and training")


def _add_train(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("data").add_argument
    add("--train", metavar="JSON", help="training annotations, COCO")
    add("--val", metavar="JSON", help="validation annotations, COCO")
    add("--images", metavar="DIR", help="folder of the images")
    add("--val-images", metavar="DIR", help="folder of the validation images, if another")
    add("--train-split", default="train", metavar="NAME", help="with --voc")
    add("--val-split", default="val", metavar="NAME", help="with --voc")
    _add_data(add)
    add("--flip", choices=FLIPS, default="both", help="random flips in training")

    add = parser.add_argument_group("model").add_argument
    add("--preset", choices=PRESETS, default="v1", help="v2: as torchvision's, GroupNorm and GIoU")
    add("--backbone", type=_backbone, default="resnet18", help="a ResNet, or timm/<name>")
    add(
        "--backbone-weights",
        metavar="FILE",
        help='of a classifier to start from; "download": those that timm publishes for timm/<name>',
    )
    add("--norm", choices=NORMS, default="batch", help="of the backbone, if it is no timm/<name>")
    add("--size", type=_size, default=320, help="longest side of an image, in pixels")
    add("--anchor-size", type=_anchor, default=16, help="of the smallest anchors, in pixels")
    add("--loss", choices=LOSSES, default="focal", help="of the classification")
    add("--alpha", type=_weight, default=0.25, help="weight of the foreground in the loss")
    add("--gamma", type=_number, default=2.0, help="focusing exponent of the focal loss")

    add = parser.add_argument_group("recipe").add_argument
    usual = Recipe()
    add("--epochs", type=_positive, default=usual.epochs, help="passes over the training data")
    add("--batch-size", type=_positive, default=usual.batch_size, help="of a step, in all")
    add("--optimizer", choices=OPTIMIZERS, default=usual.optimizer, help="with SGD, momentum 0.9")
    add("--lr", type=_number, help="peak learning rate; adamw: 5e-4; sgd: 0.01 for 16 images")
    add("--weight-decay", type=_number, help="not of norms and biases; adamw: 0.01; sgd: 1e-4")
    add("--schedule", choices=SCHEDULES, default=usual.schedule, help="of the learning rate")
    add("--warmup", type=_count, default=usual.warmup, help="steps; onecycle has its own")
    add("--clip-norm", type=_number, default=usual.clip_norm, help="of the gradient; 0: none")
    add("--ema", type=_fraction, default=usual.ema, help="decay of averaged weights; 0: none")
    add("--sync-norm", action="store_true", help="BatchNorm over the images of all processes")
    add("--seed", type=_count, default=usual.seed, help="of weights, order and flips")

    add = parser.add_argument_group("speed and memory").add_argument
    add("--precision", choices=PRECISIONS, default=usual.precision, help="half types: autocast")
    add("--accumulate", type=_positive, default=usual.accumulate, help="micro-batches in a step")
    add("--compile", action="store_true", help="the losses, from images on, by torch.compile")
    add("--workers", type=_count, default=usual.workers, help="processes that load images")
    add("--device", help="such as cpu or cuda:1; a GPU where there is one")

    add = parser.add_argument_group("keeping").add_argument
    add("--eval-every", type=_positive, default=usual.eval_every, help="epochs")
    add(
        "--save-every",
        type=_count,
        default=usual.save_every,
        metavar="STEPS",
        help="between checkpoints within an epoch; 0: after epochs alone",
    )
    add(
        "--max-bad-steps",
        type=_positive,
        default=usual.max_bad_steps,
        help="in a row that have no finite loss, before training stops",
    )
    _add_evaluator(add)
    add("--tensorboard", action="store_true", help="events, too (focaldet[tensorboard])")
    add("--profile", action="store_true", help="write trace.json, of a few steps")
    add(
        "--timeout",
        type=_seconds,
        default=TIMEOUT,
        metavar="SECONDS",
        help="without progress of a process that others wait for (torchrun)",
    )

    parser.add_argument("--out", required=True, metavar="DIR", help="folder of the run")
    parser.add_argument(
        "--resume", action="store_true", help="go on with the run in --out, by the same command"
    )


def _add_evaluate(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--weights", metavar="FILE", help="checkpoint of the model to run")
    add("--detections", metavar="JSON", help="detections to score instead, in COCO's results form")
    add("--data", metavar="JSON", help="ground truth, COCO")
    add("--images", metavar="DIR", help="folder of the images")
    add("--split", default="val", metavar="NAME", help="with --voc")
    _add_data(add)
    add("--json", metavar="FILE", help="write the scores here too")
    _add_evaluator(add)
    add("--batch-size", type=_positive, default=8, help="images in a step")
    add("--workers", type=_count, default=2, help="processes that load images")
    add("--device", help="such as cpu or cuda:1; a GPU where there is one")


def _add_evaluator(add: Callable[..., Any]) -> None:
    add(
        "--evaluator",
        choices=EVALUATORS,
        default="pycocotools",
        help='ultrafast: the same numbers sooner; needs pip install "focaldet[fast-eval]"',
    )


def _add_data(add: Callable[..., Any]) -> None:
    add("--voc", metavar="DIR", help="folder in Pascal VOC's form, instead of COCO JSON")
    add("--cache", metavar="DIR", help="keep decoded images here, for other epochs and runs")
    add("--skip-bad-images", action="store_true", help="name and leave out unreadable images")
    add("--skip-bad-boxes", action="store_true", help="name and leave out boxes without area")


def _add_detect(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("paths", nargs="+", metavar="PATH", help="image files, and folders searched for them")
    add("--weights", required=True, metavar="FILE", help="checkpoint of the model")
    add("--out", required=True, metavar="DIR", help="new or empty folder for the pictures")
    add("--score-threshold", type=_fraction, default=0.5, help="least score of a detection")
    add("--batch", type=_positive, default=BATCH, metavar="N", help="images of one size at once")
    add("--device", help="such as cpu or cuda:1; a GPU where there is one")


def _add_convert(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("weights", metavar="FILE", help="weights, as .pth, .safetensors or .pkl")
    add("--out", required=True, metavar="FILE", help="checkpoint to write, .safetensors")
    add("--layout", choices=("auto", *LAYOUTS), default="auto", help="the package they are of")
    add(
        "--style",
        choices=STYLES,
        help="of the ResNet, whatever the file says; caffe (usual for detectron2): BGR and stride "
        "in the 1x1; pytorch (usual for mmdetection)",
    )
    add("--class-names", metavar="FILE", help="a name a line, in label order; COCO's for COCO")
    add(
        "--norm-eps",
        type=_number,
        default=EPS,
        help="of the norms; 0 for retinanet_resnet50_fpn_coco-eeacb38b.pth of torchvision",
    )


def _backbone(text: str) -> str:
    try:
        return check_backbone(text)
    except UserError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _add_export(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--weights", required=True, metavar="FILE", help="checkpoint of the model")
    add("--out", required=True, metavar="PT2", help="file to write")
    add(
        "--program",
        action="store_true",
        help="write the graph (torch.export), not compiled: it runs on any machine",
    )
    add("--device", help="where it will run; a GPU where there is one")


def _checked(convert: type, accepts: Callable[[Any], bool], expected: str) -> Callable[[str], Any]:
    def read(text: str) -> Any:
        try:
            value = convert(text)
        except ValueError:
            value = None
        if value is None or not accepts(value):
            raise argparse.ArgumentTypeError(f"expected {expected}, got {text!r}")
        return value

    return read


_positive = _checked(int, lambda value: value > 0, "a whole number above 0")
_size = _checked(int, lambda value: value >= 64, "a whole number, 64 or more")
_anchor = _checked(int, lambda value: value >= 4, "a whole number, 4 or more")
_count = _checked(int, lambda value: value >= 0, "a whole number, 0 or more")
_seconds = _checked(float, lambda value: 0 < value < math.inf, "a number above 0")
_number = _checked(float, lambda value: 0 <= value < math.inf, "a number, 0 or more")
_weight = _checked(float, lambda value: 0 <= value <= 1, "a number from 0 to 1")
_fraction = _checked(float, lambda value: 0 <= value < 1, "a number from 0 to 1, below 1")
