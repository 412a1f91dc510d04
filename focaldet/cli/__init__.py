"""The command line: a module for each command, with its arguments and what it does with them.

A command becomes data sets, models and recipes here; the work is done elsewhere.
"""

from __future__ import annotations

import os
import select
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from tqdm import tqdm

from .. import __version__
from ..checkpoint import OlderCheckpointWarning
from ..errors import DataWarning, EndedElsewhere, UserError
from . import (
    convert,
    data,
    demo,
    detect,
    env,
    evaluate,
    experiment,
    explain,
    export,
    figure,
    recipes,
    train,
)
from .parser import Command, Parser, add_commands

COMMANDS: dict[str, Command] = {
    "demo": demo,
    "data": data,
    "env": env,
    "train": train,
    "evaluate": evaluate,
    "detect": detect,
    "explain": explain,
    "convert": convert,
    "export": export,
    "recipes": recipes,
    "experiment": experiment,
    "figure": figure,
}


def make_parser() -> Parser:
    parser = Parser.of(
        "focaldet",
        "Train, evaluate and run a RetinaNet detector.",
        ("focaldet demo", "focaldet train --help"),
    )
    parser.add_argument("--version", action="version", version=f"focaldet {__version__}")
    return add_commands(parser, COMMANDS)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command line; returns the exit code: 0, 1 for a data set with errors, 2 for bad input,
    130 for Ctrl-C, 141 where nobody reads what it prints any more."""
    code = 0
    try:
        with _warnings_in_one_line():
            parser = make_parser()
            args = parser.parse_args(argv)
            if args.command is None:
                parser.print_help()
            else:
                code = COMMANDS[args.command].run(args) or 0
        sys.stdout.flush()
    except EndedElsewhere:  # the process that failed says why
        return 2
    except (UserError, OSError) as error:  # OSError: a full disk, a folder without permission
        if isinstance(error, BrokenPipeError) and _nobody_reads():
            return 141
        print(f"focaldet: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("focaldet: interrupted", file=sys.stderr)
        return 130
    return code


def _nobody_reads() -> bool:
    """Whether it is stdout that broke, as in `focaldet env | head -1`, which is nobody's error."""
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)
    broken = any(event & select.POLLERR for _, event in poll.poll(0))
    if broken:  # or Python would complain of it in its last flush
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return broken


_NOTES = (DataWarning, OlderCheckpointWarning)


@contextmanager
def _warnings_in_one_line() -> Iterator[None]:
    """What was skipped or replaced goes to stderr without file and line, clear of progress bars."""

    def show(message: Warning | str, category: type[Warning], *place: Any, **more: Any) -> None:
        if issubclass(category, _NOTES):
            tqdm.write(f"focaldet: {message}", file=sys.stderr)
        else:
            plain(message, category, *place, **more)

    with warnings.catch_warnings():
        plain = warnings.showwarning
        warnings.showwarning = show
        for note in _NOTES:
            warnings.simplefilter("always", note)
        yield
