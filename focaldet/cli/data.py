"""`focaldet data`: commands about a data set."""

from __future__ import annotations

import argparse

from . import data_check, data_show
from .parser import Command, Parser, add_commands

SUMMARY = "check a data set, or show what is in it"
EXAMPLES = (*data_check.EXAMPLES, *data_show.EXAMPLES)

COMMANDS: dict[str, Command] = {"check": data_check, "show": data_show}


def add_arguments(parser: Parser) -> None:
    add_commands(parser, COMMANDS, dest="action")
    parser.set_defaults(print_help=parser.print_help)


def run(args: argparse.Namespace) -> int | None:
    if args.action is None:
        args.print_help()
        return None
    return COMMANDS[args.action].run(args)
