"""`focaldet recipes`."""

from __future__ import annotations

import argparse

from ..recipes import Configuration, find, load, names
from .parser import Parser

SUMMARY = "list the recipes of focaldet train, or print one"
EXAMPLES = (
    "focaldet recipes",
    "focaldet recipes small",
)


def add_arguments(parser: Parser) -> None:
    parser.add_argument(
        "recipe", nargs="?", metavar="NAME", help="recipe to print, by its name or its .toml file"
    )


def run(args: argparse.Namespace) -> None:
    if args.recipe:
        load(args.recipe)  # says what is wrong with it
        print(find(args.recipe).read_text(encoding="utf-8"), end="")
        return
    for setup in map(load, names()):
        print(f"{setup.name:20}{setup.about}{expected(setup)}")


def expected(setup: Configuration) -> str:
    """What was published of a recipe, if anything was."""
    claim = setup.expected
    if not claim:
        return ""
    here = "" if claim["run_here"] else ", not run here"
    return f"; published{here}: AP {claim['AP']:.3f} on {claim['data']}"
