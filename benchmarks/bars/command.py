"""The command of a file of cases that are timed for bars: `python -m benchmarks.bars.NAME_cases`.

`python -m benchmarks.bars.NAME` runs it twice (__init__.py), for malloc reads its settings when
Python starts, and says what the figures are to be.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import torch

from ..case import Case
from ..facts import facts
from ..inputs import IMAGE, THUMBNAIL, Setup
from ..measure import measure
from ..report import block, header, write_json


def main(
    name: str,
    doc: str | None,
    cases: Callable[[Setup], Iterable[tuple[str, Case]]],  # with the names that targets have
    argv: Sequence[str] | None,
) -> int:
    parser = argparse.ArgumentParser(f"python -m benchmarks.bars.{name}", description=doc)
    parser.add_argument("--json", type=Path, required=True, metavar="FILE")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args(argv)
    setup = on_cpu(args.quick)
    known, rows = facts(setup), []
    print(header(known), flush=True)
    for op, case in cases(setup):
        found = measure(op, case, setup, tuple(case.providers), args.rounds)
        print(block(found), flush=True)
        rows += found
    write_json(args.json, known, rows)
    return 0


def on_cpu(quick: bool) -> Setup:
    return Setup(torch.device("cpu"), torch.float32, THUMBNAIL if quick else IMAGE, quick)
