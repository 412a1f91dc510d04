"""Times the operators and the model against their reference twins and other packages, compares two
results, and draws them."""

from __future__ import annotations

import argparse
import importlib
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, NoReturn

from . import compare, heap, plots
from .ops import NAMES as OPS
from .stored import Unusable, read

if TYPE_CHECKING:
    from .inputs import Setup
    from .report import Row

DTYPES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
OURS = ("focaldet", "reference", "torch.compile")
CACHES = {"warm": ("warm",), "cold": ("cold",), "both": ("warm", "cold")}
HEAPS = {"kept": ("kept",), "default": ("default",), "both": ("kept", "default")}


class Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One line, and exit code 2."""
        self.exit(2, f"benchmarks: error: {message}\n")

    def check(self, kind: str, names: Sequence[str], available: Iterable[str]) -> None:
        for name in names:
            if name not in available:
                self.error(f"{kind} {name!r} is not there; available: {', '.join(available)}")


class Part(NamedTuple):
    """What one process measures."""

    device: str
    heap: str


def positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected an integer of at least 1, got {text!r}")
    return int(text)


def fraction(text: str) -> float:
    try:
        if (value := float(text)) >= 0 and value < float("inf"):
            return value
    except ValueError:
        pass
    raise argparse.ArgumentTypeError(f"expected a number of at least 0, got {text!r}")


def make_parser() -> Parser:
    parser = Parser("python -m benchmarks", description=__doc__)
    add = parser.add_argument
    add("ops", nargs="*", metavar="op", help=f"{', '.join(OPS)}; default: all")
    add(
        "--provider",
        action="append",
        metavar="NAME",
        help=f"{', '.join(OURS)} or a package that is installed; may be repeated; default: all",
    )
    add("--device", help="cpu or cuda; default: cuda and cpu, as far as they are there, in turn")
    add("--dtype", default="fp32", help=f"{', '.join(DTYPES)} or torch's names; default: fp32")
    add("--threads", type=positive, metavar="N", help="default: torch's")
    add("--rounds", type=positive, metavar="N", default=9, help="default: 9")
    add("--cache", help="warm, cold or both; default: warm on the CPU, cold on CUDA")
    add("--heap", help="of the CPU: kept, default (malloc's) or both; default: as it is")
    several = "for several devices or heaps FILE-DEVICE-HEAP.json"
    add("--json", type=Path, metavar="FILE", help=f"write facts and figures there; {several}")
    add("--quick", action="store_true", help="tiny inputs, to see that all runs")
    sizes = parser.add_mutually_exclusive_group()
    axes = "over N, K, boxes, candidates, dtype or threads"
    sizes.add_argument("--sweep", metavar="AXIS", help=axes)
    short = "what CI times: small sizes, on one thread"
    sizes.add_argument("--short", action="store_true", help=short)
    drawn = "draw the result there: a .png, or a .html page with facts and tables"
    add("--plot", action="append", type=Path, default=[], metavar="FILE", help=drawn)
    stored = "time nothing: draw this result"
    add("--from", type=Path, dest="stored", metavar="FILE", help=stored)
    pair = {"nargs": 2, "type": Path, "metavar": ("OLD", "NEW")}
    add(
        "--compare", **pair, help="time nothing: print what got slower; exit with 1 if focaldet did"
    )
    add("--ratios", action="store_true", help="compare ratios to peers, as between machines")
    margin = f"that a comparison allows beside the noise; default: {compare.MARGIN}"
    add("--margin", type=fraction, default=compare.MARGIN, metavar="M", help=margin)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    parser = make_parser()
    args = parser.parse_args(argv)
    try:
        plots.check(args.plot)
        if args.compare:
            return compare.main(*args.compare, args.ratios, args.margin)
        if args.stored:
            return draw(args.stored, args.plot)
    except Unusable as error:
        parser.error(str(error))
    return timed(parser, args, argv)


def draw(stored: Path, files: Sequence[Path]) -> int:
    result = read(stored)
    if not files:
        raise Unusable(f"--from {stored}: expected a --plot FILE, too")
    for path in files:
        plots.write(path, result.facts, result.rows)
    return 0


def timed(parser: Parser, args: argparse.Namespace, argv: Sequence[str] | None) -> int:
    parser.check("op", args.ops, OPS)
    parser.check("dtype", [args.dtype], [*DTYPES, *DTYPES.values()])
    parser.check("cache", [args.cache] if args.cache else (), CACHES)
    parser.check("heap", [args.heap] if args.heap else (), HEAPS)
    if args.json and (args.json.is_dir() or not args.json.resolve().parent.is_dir()):
        parser.error(f"--json {args.json}: expected a file in a folder that exists")
    # torch's log of warnings, which reports what its profiler of memory does not know.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    try:
        import focaldet
    except ImportError as error:
        parser.error(f"{error} (`pip install .` installs focaldet)")
    import torch

    from . import peers, short, sweep

    if args.short:
        parser.check("in the short set: op", args.ops, short.SIZES)
    if args.sweep:
        parser.check("axis", [args.sweep], sweep.AXES)
        parser.check(f"a sweep over {args.sweep}: op", args.ops, sweep.ops(args.sweep))
    parser.check("provider", args.provider or (), [*OURS, *peers.available()])
    cuda = torch.cuda.is_available() and focaldet._C_cuda is not None
    devices = ("cuda", "cpu") if cuda else ("cpu",)
    parser.check("device", [args.device] if args.device else (), devices)

    heaps = HEAPS[args.heap] if args.heap else (heap.current(),)
    usual = ("cpu",) if args.short else devices
    asked = [args.device] if args.device else usual
    # malloc's settings do not change how a GPU is timed.
    parts = [
        Part(*each) for each in product(asked, heaps) if each[0] == "cpu" or each[1] == heaps[0]
    ]
    if len(parts) > 1 and args.plot:
        parser.error("--plot draws one run: choose one --device and one --heap")
    if len(parts) > 1 or parts[0].heap != heap.current():
        codes = [in_a_process(part, parts, args.json, argv) for part in parts]
        return next((abs(code) for code in codes if code), 0)  # negative: of a signal
    return run(args, parts[0].device)


def in_a_process(
    part: Part, parts: Sequence[Part], json: Path | None, argv: Sequence[str] | None
) -> int:
    """The same command for one part. Of several, each has a file: out.json, out-cpu-kept.json."""
    options = ["--device", part.device, "--heap", part.heap]
    if json and len(parts) > 1:
        options += ["--json", str(json.with_stem(f"{json.stem}-{part.device}-{part.heap}"))]
    given = sys.argv[1:] if argv is None else argv
    command = [sys.executable, "-m", "benchmarks", *given, *options]
    return subprocess.run(command, env=heap.environment(part.heap)).returncode


def run(args: argparse.Namespace, device: str) -> int:
    import torch

    from . import memory, short
    from .facts import facts
    from .inputs import IMAGE, THUMBNAIL, Setup
    from .report import block, header, write_json

    if args.threads or args.short:
        torch.set_num_threads(args.threads or short.THREADS)
    dtype = getattr(torch, DTYPES.get(args.dtype, args.dtype))
    setup = Setup(torch.device(device), dtype, THUMBNAIL if args.quick else IMAGE, args.quick)
    known = facts(setup) | {"sweep": args.sweep}
    print(header(known), flush=True)
    rows: list[Row] = []
    # A GPU's driver reserves addresses without end.
    with memory.within_machine() if device == "cpu" else nullcontext():
        for found in groups(args, setup):
            if found:
                print(block(found), flush=True)
            rows += found
            if args.json:  # every time, for a run that does not come to its end
                write_json(args.json, known, rows)
    for path in args.plot:
        plots.write(path, known, rows)
    return 0


def groups(args: argparse.Namespace, setup: Setup) -> Iterator[list[Row]]:
    """The rows of each case."""
    from . import peers, short, sweep
    from .measure import measure
    from .sized import Timing

    if args.short:
        ops = args.ops or short.SIZES
        yield from short.groups(ops, setup, args.provider)
        return
    providers = args.provider or [*OURS, *peers.available()]
    caches = CACHES[args.cache or ("cold" if setup.device.type == "cuda" else "warm")]
    timing = Timing(providers, args.rounds, caches)
    for op in args.ops or (sweep.ops(args.sweep) if args.sweep else OPS):
        if args.sweep:
            yield from sweep.rows(op, args.sweep, setup, timing)
            continue
        for case in importlib.import_module(f"benchmarks.ops.{op}").cases(setup):
            yield measure(op, case, setup, providers, args.rounds, caches)


if __name__ == "__main__":
    sys.exit(main())
