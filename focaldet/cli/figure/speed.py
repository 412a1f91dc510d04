"""`focaldet figure 2`."""

from __future__ import annotations

import argparse

from ...errors import UserError
from ...experiments.results import milliseconds, read_results
from ..parser import Parser

SUMMARY = "accuracy against time: published systems, and what `experiment speed-accuracy` measured"
EXAMPLES = (
    "focaldet figure 2 --out figure2.svg",
    "focaldet figure 2 --results runs/paper/speed-accuracy/results.json --out figure2.svg",
)


def add_arguments(parser: Parser) -> None:
    add = parser.add_argument
    add("--results", metavar="JSON", help="of the experiment, for a panel beside the published")
    add("--out", required=True, metavar="FILE", help=".svg or .png")


def run(args: argparse.Namespace) -> None:
    from ...experiments.figures import speed, style  # matplotlib: not before it is asked for

    results = read_results(args.results) if args.results else None
    if results and not any(milliseconds(row).values for row in results["rows"]):
        raise UserError(
            f"{args.results}: no times of inference; expected those of experiment speed-accuracy"
        )
    style.write(args.out, lambda: speed.figure(results))
