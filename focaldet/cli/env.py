"""`focaldet env`."""

from __future__ import annotations

import argparse

from ..env import report
from .parser import Parser

SUMMARY = "print versions, what was built, and the hardware in use"
EXAMPLES = ("focaldet env",)


def add_arguments(parser: Parser) -> None:
    """It has none."""


def run(args: argparse.Namespace) -> None:
    print(report())
