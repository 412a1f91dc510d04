"""Times the operators and the model against their reference twins and torchvision."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

OPS = ("focal_loss", "anchors", "match", "nms", "boxes", "retinanet_loss", "postprocess", "model")
DTYPES = ("float32", "bfloat16", "float16")


class Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One line, and exit code 2."""
        self.exit(2, f"benchmarks: error: {message}\n")

    def check(self, kind: str, names: Sequence[str], available: Sequence[str]) -> None:
        for name in names:
            if name not in available:
                self.error(f"{kind} {name!r} is not there; available: {', '.join(available)}")


def positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected an integer of at least 1, got {text!r}")
    return int(text)


def make_parser() -> Parser:
    parser = Parser("python -m benchmarks", description=__doc__)
    parser.add_argument("ops", nargs="*", metavar="op", help=f"{', '.join(OPS)}; default: all")
    parser.add_argument(
        "--provider",
        action="append",
        metavar="NAME",
        help="focaldet, reference or torchvision; may be repeated; default: all",
    )
    parser.add_argument("--device", default="cpu", help="cpu or cuda; default: cpu")
    parser.add_argument("--dtype", default="float32", help=f"{', '.join(DTYPES)}; default: float32")
    parser.add_argument("--threads", type=positive, metavar="N", help="default: torch's")
    parser.add_argument("--rounds", type=positive, metavar="N", default=9, help="default: 9")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write facts and figures there")
    parser.add_argument("--quick", action="store_true", help="tiny inputs, to see that all runs")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    parser = make_parser()
    args = parser.parse_args(argv)
    parser.check("op", args.ops, OPS)
    parser.check("dtype", [args.dtype], DTYPES)
    if args.json and not args.json.resolve().parent.is_dir():
        parser.error(f"--json {args.json}: expected a file in a folder that exists")
    try:
        import focaldet
    except ImportError as error:
        parser.error(f"{error} (`pip install .` installs focaldet)")
    import torch

    from .common import IMAGE, PROVIDERS, THUMBNAIL, Setup, measure
    from .facts import facts, installed
    from .report import block, header, write_json

    there = [name for name in PROVIDERS if name != "torchvision" or installed(name)]
    parser.check("provider", args.provider or (), there)
    cuda = torch.cuda.is_available() and focaldet._C_cuda is not None
    parser.check("device", [args.device], ("cpu", "cuda") if cuda else ("cpu",))

    if args.threads:
        torch.set_num_threads(args.threads)
    image = THUMBNAIL if args.quick else IMAGE
    setup = Setup(torch.device(args.device), getattr(torch, args.dtype), image, args.quick)
    known = facts(setup)
    print(header(known), flush=True)
    rows = []
    for op in args.ops or OPS:
        for case in importlib.import_module(f"benchmarks.{op}").cases(setup):
            found = measure(op, case, setup, args.provider or PROVIDERS, args.rounds)
            print(block(found), flush=True)
            rows += found
            if args.json:  # every time, for a run that does not come to its end
                write_json(args.json, known, rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
