"""`focaldet explain`."""

from __future__ import annotations

import argparse

from ..data import Table, flaws
from ..data.coco import read_coco
from ..data.folder import names_a_folder, source_of
from ..explain import explain
from ..words import counted
from .common import add_device, device
from .parser import Parser, fraction

SUMMARY = "show on a page for each image what a model does, and why it missed what"
EXAMPLES = (
    "focaldet explain photo.jpg --weights runs/cells/best.safetensors --out pages",
    "focaldet explain images --weights runs/cells/best.safetensors --data val.json --out pages",
)


def add_arguments(parser: Parser) -> None:
    add = parser.add_argument
    add("paths", nargs="+", metavar="PATH", help="image files, and folders searched for them")
    add("--weights", required=True, metavar="FILE", help="checkpoint of the model")
    add(
        "--data",
        metavar="JSON|DIR",
        help="ground truth of the images, found by file name: COCO, or the folder of a data set",
    )
    add("--split", default="val", metavar="NAME", help="of the data set in a folder")
    add("--out", required=True, metavar="DIR", help="new or empty folder for the pages")
    add("--score-threshold", type=fraction, default=0.5, help="least score of a detection")
    add_device(add)


def run(args: argparse.Namespace) -> None:
    pages = explain(
        args.paths,
        args.weights,
        args.out,
        _annotations(args.data, args.split) if args.data else None,
        args.score_threshold,
        device(args.device),
    )
    print(f"{counted(len(pages), 'page')} in {args.out}, such as {pages[0]}")


def _annotations(data: str, split: str) -> Table:
    return source_of(data, split).read(flaws.refuse) if names_a_folder(data) else read_coco(data)
