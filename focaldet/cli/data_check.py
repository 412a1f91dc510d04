"""`focaldet data check`."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from .. import recipes
from ..check import Detector, check_data
from ..data.folder import Source, coco_source, splits
from ..data.transforms import leading_resize
from ..errors import UserError
from ..files import write_atomically
from ..models.fpn import level_strides
from .common import Add, new_file
from .parser import Parser, anchor, positive, size
from .train import configuration

SUMMARY = "go through a data set and name all that is wrong, without changing anything"
EXAMPLES = (
    "focaldet data check BCCD --size 320 --anchor-size 16",
    "focaldet data check --train train.json --val val.json --images images --json report.json",
)


def add_arguments(parser: Parser) -> None:
    add_sources(parser.add_argument)
    add_detector(parser.add_argument)
    add = parser.add_argument
    add("--no-images", action="store_true", help="leave the image files unread: seconds")
    add("--workers", type=positive, default=2, help="threads that read images")
    add("--json", metavar="FILE", help="write everything that was found there, a new file")


def add_sources(add: Add) -> None:
    add(
        "folder",
        nargs="?",
        metavar="DIR",
        help="folder in COCO's, Pascal VOC's or YOLO's form, or YOLO's data.yaml",
    )
    add("--train", metavar="JSON", help="training annotations, COCO, instead of DIR")
    add("--val", metavar="JSON", help="validation annotations, COCO")
    add("--images", metavar="DIR", help="folder of the images")
    add("--val-images", metavar="DIR", help="folder of the validation images, if another")


def sources(args: argparse.Namespace) -> dict[str, Source]:
    """The splits that the arguments name, to be read."""
    if bool(args.folder) == bool(args.train or args.val):
        raise UserError("expected a folder, or --train, --val and --images")
    if args.folder:
        if args.images or args.val_images:
            raise UserError(
                f"{args.folder}: a folder of a data set says where its images are; "
                "expected it without --images, or --train and --val instead of it"
            )
        found = splits(args.folder)
        if not found:
            raise UserError(
                f"{args.folder}: no form of a data set is known in it; expected COCO's, Pascal "
                "VOC's or YOLO's, or --train, --val and --images"
            )
        return found
    given = {"train": (args.train, args.images), "val": (args.val, args.val_images or args.images)}
    for folder in filter(None, (args.images, args.val_images)):
        if not Path(folder).is_dir():
            raise UserError(f"image folder {folder!r} does not exist; name another")
    if not args.images:
        raise UserError("expected --images, the folder of the images")
    return {name: coco_source(file, images) for name, (file, images) in given.items() if file}


def add_detector(add: Add) -> None:
    add("--recipe", default=recipes.DEFAULT, metavar="NAME", help="of the detector to be trained")
    add("--size", type=size, help="longest side of an image, in pixels, instead of the recipe's")
    add("--anchor-size", type=anchor, help="of the smallest anchors, instead of the recipe's")


def detector(args: argparse.Namespace) -> Detector:
    """What `focaldet train` would make of these arguments."""
    given = {"recipe": args.recipe, "size": args.size, "anchor_size": args.anchor_size}
    setup = configuration(argparse.Namespace(**given, preset=None, backbone_weights=None))
    resize, _ = leading_resize(setup.eval_transform())
    assert resize is not None
    model = setup.model_arguments()
    strides = level_strides(model["finest_level"])
    return Detector(resize, setup.anchor_grid(), strides, model["detections_per_img"])


def run(args: argparse.Namespace) -> int:
    out = new_file(args.json, ".json", option="--json") if args.json else None
    report = check_data(
        sources(args), detector(args), with_images=not args.no_images, workers=args.workers
    )
    print(report.text())
    if out:
        text = json.dumps(report.json(), indent=1, allow_nan=False)
        write_atomically(out, f"{text}\n".encode())
    return int(report.has_errors)
