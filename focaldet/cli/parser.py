"""How the command line is read: commands, their help, and what a value may be."""

from __future__ import annotations

import argparse
import difflib
import math
import re
from collections.abc import Callable, Mapping
from typing import Any, NoReturn, Protocol

from ..errors import UserError

Reader = Callable[[str], Any]  # of an argument


class Command(Protocol):
    """What the module of a command has."""

    @property
    def SUMMARY(self) -> str: ...

    @property
    def EXAMPLES(self) -> tuple[str, ...]: ...

    def add_arguments(self, parser: Parser) -> None: ...

    def run(self, args: argparse.Namespace) -> int | None: ...  # an exit code, if not 0


class Parser(argparse.ArgumentParser):
    @classmethod
    def of(cls, prog: str, description: str, examples: tuple[str, ...]) -> Parser:
        return cls(
            prog, description=description, epilog=_lines(examples), formatter_class=_HelpFormatter
        )

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}{_nearest_choice(message)} (see {self.prog} --help)")


def add_commands(parser: Parser, commands: Mapping[str, Command], dest: str = "command") -> Parser:
    """The parser, with a parser of its own for each command; `dest` will hold the name of one."""
    add = parser.add_subparsers(dest=dest, metavar="command").add_parser
    for name, command in commands.items():
        summary = command.SUMMARY
        command.add_arguments(
            add(
                name,
                help=summary,
                description=f"{summary[0].upper()}{summary[1:]}.",
                epilog=_lines(command.EXAMPLES),
                formatter_class=_HelpFormatter,
            )
        )
    return parser


def _lines(examples: tuple[str, ...]) -> str:
    return "\n  ".join(["example:" if len(examples) == 1 else "examples:", *examples])


def _nearest_choice(message: str) -> str:
    """What argparse's "invalid choice" may have meant."""
    found = re.search(r"invalid choice: '(.*)' \(choose from (.*)\)", message)
    near = difflib.get_close_matches(found[1], re.findall(r"[\w-]+", found[2])) if found else ()
    return f"; did you mean {near[0]}?" if near else ""


class _HelpFormatter(argparse.RawDescriptionHelpFormatter, argparse.ArgumentDefaultsHelpFormatter):
    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.default in (None, False):
            return action.help
        return super()._get_help_string(action)


def checked(convert: type, accepts: Callable[[Any], bool], expected: str) -> Reader:
    """What reads an argument: a `convert` of its text that it `accepts`."""

    def read(text: str) -> Any:
        try:
            value = convert(text)
        except ValueError:
            value = None
        if value is None or not accepts(value):
            raise argparse.ArgumentTypeError(f"expected {expected}, got {text!r}")
        return value

    return read


positive: Reader = checked(int, lambda value: value > 0, "a whole number above 0")
count: Reader = checked(int, lambda value: value >= 0, "a whole number, 0 or more")
size: Reader = checked(int, lambda value: value >= 64, "a whole number, 64 or more")
anchor: Reader = checked(int, lambda value: value >= 4, "a whole number, 4 or more")
seconds: Reader = checked(float, lambda value: 0 < value < math.inf, "a number above 0")
number: Reader = checked(float, lambda value: 0 <= value < math.inf, "a number, 0 or more")
weight: Reader = checked(float, lambda value: 0 <= value <= 1, "a number from 0 to 1")
fraction: Reader = checked(float, lambda value: 0 <= value < 1, "a number from 0 to 1, below 1")
