"""`focaldet figure`: a module for each of the paper's figures that can be drawn anew."""

from __future__ import annotations

import argparse
from pathlib import Path

from ...errors import UserError
from ...experiments.figures import check_file
from ..parser import Command, Parser, add_commands
from . import cumulative, loss, speed

SUMMARY = "draw a figure of the paper: 1 (the loss), 2 (speed), 4 (which anchors carry the loss)"
EXAMPLES = (
    "focaldet figure 1 --out figure1.svg",
    "focaldet figure 4 --help",
)
FIGURES: dict[str, Command] = {"1": loss, "2": speed, "4": cumulative}


def add_arguments(parser: Parser) -> None:
    parser.set_defaults(number=None)
    add_commands(parser, FIGURES, dest="number")


def run(args: argparse.Namespace) -> None:
    if args.number is None:
        raise UserError(f"figure: expected a number, one of {', '.join(FIGURES)}")
    check_file(args.out)
    for option in ("out", "json"):
        file = getattr(args, option, None)
        if file and Path(file).exists():
            raise UserError(f"--{option} {file}: exists already; name another file")
    FIGURES[args.number].run(args)
    print(f"wrote {args.out}")
