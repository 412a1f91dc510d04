"""`focaldet export`."""

from __future__ import annotations

import argparse

from ..checkpoint import load_model
from ..export import metadata, package, save
from .common import device, new_file
from .parser import Parser

SUMMARY = "compile a model, or write its graph, to run without its Python"
EXAMPLES = ("focaldet export --weights runs/cells/best.safetensors --out cells.pt2",)


def add_arguments(parser: Parser) -> None:
    add = parser.add_argument
    add("--weights", required=True, metavar="FILE", help="checkpoint of the model")
    add("--out", required=True, metavar="PT2", help="file to write")
    add(
        "--program",
        action="store_true",
        help="write the graph (torch.export), not compiled: it runs on any machine",
    )
    add("--device", help="where it will run; a GPU where there is one")


def run(args: argparse.Namespace) -> None:
    new_file(args.out, ".pt2")
    model, description = load_model(args.weights, device(args.device))
    write = save if args.program else package
    write(model, args.out, metadata(model, description.class_names))
    print(f"{args.out}: {'exported program' if args.program else 'AOTInductor package'}")
