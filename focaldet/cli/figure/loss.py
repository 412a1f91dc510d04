"""`focaldet figure 1`."""

from __future__ import annotations

import argparse

from ..parser import Parser

SUMMARY = "the focal loss against the probability of the true class, for five gammas"
EXAMPLES = ("focaldet figure 1 --out figure1.svg",)


def add_arguments(parser: Parser) -> None:
    parser.add_argument("--out", required=True, metavar="FILE", help=".svg or .png")


def run(args: argparse.Namespace) -> None:
    from ...experiments.figures import loss, style  # matplotlib: not before it is asked for

    style.write(args.out, loss.figure)
