"""`focaldet detect`."""

from __future__ import annotations

import argparse

from ..detect import BATCH, describe, detect
from ..files import read_json
from .common import add_device, device
from .parser import Parser, fraction, positive

SUMMARY = "draw the detections of a model on image files"
EXAMPLES = (
    "focaldet detect photo.jpg folder --weights runs/cells/best.safetensors --out pictures",
)


def add_arguments(parser: Parser) -> None:
    add = parser.add_argument
    add("paths", nargs="+", metavar="PATH", help="image files, and folders searched for them")
    add("--weights", required=True, metavar="FILE", help="checkpoint of the model")
    add("--out", required=True, metavar="DIR", help="new or empty folder for the pictures")
    add("--score-threshold", type=fraction, default=0.5, help="least score of a detection")
    add("--batch", type=positive, default=BATCH, metavar="N", help="images of one size at once")
    add_device(add)


def run(args: argparse.Namespace) -> None:
    written = detect(
        args.paths,
        args.weights,
        args.out,
        args.score_threshold,
        device(args.device),
        args.batch,
    )
    print(f"{describe(read_json(written))}; pictures and {written.name} are in {args.out}")
