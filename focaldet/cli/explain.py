"""`focaldet explain`."""

from __future__ import annotations

import argparse

from ..data.coco import read_coco
from ..data.voc import read_voc
from ..errors import UserError
from ..explain import explain
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
    add("--data", metavar="JSON", help="ground truth, COCO; its images are found by file name")
    add("--voc", metavar="DIR", help="ground truth, folder in Pascal VOC's form")
    add("--split", default="val", metavar="NAME", help="with --voc")
    add("--out", required=True, metavar="DIR", help="new or empty folder for the pages")
    add("--score-threshold", type=fraction, default=0.5, help="least score of a detection")
    add_device(add)


def run(args: argparse.Namespace) -> None:
    if args.data and args.voc:
        raise UserError("expected either --data or --voc")
    annotations = None
    if args.data:
        annotations = read_coco(args.data)
    elif args.voc:
        annotations = read_voc(args.voc, args.split)
    pages = explain(
        args.paths, args.weights, args.out, annotations, args.score_threshold, device(args.device)
    )
    print(f"{len(pages)} page{'s' if len(pages) != 1 else ''} in {args.out}, such as {pages[0]}")
