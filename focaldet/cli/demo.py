"""`focaldet demo`."""

from __future__ import annotations

import argparse

from ..demo import demo
from .parser import Parser, count

SUMMARY = "train and evaluate a small detector on generated scenes, in minutes"
EXAMPLES = ("focaldet demo --out focaldet-demo",)


def add_arguments(parser: Parser) -> None:
    parser.add_argument("--out", default="focaldet-demo", metavar="DIR", help="folder to write")
    parser.add_argument("--seed", type=count, default=0, help="of scenes and training")


def run(args: argparse.Namespace) -> None:
    demo(args.out, args.seed)
