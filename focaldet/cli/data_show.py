"""`focaldet data show`."""

from __future__ import annotations

import argparse

from ..check import Split
from ..errors import UserError
from ..files import replacing
from ..sheet import choose, contact_sheet, flagged
from .common import new_file
from .data_check import add_detector, add_sources, detector, sources
from .parser import Parser, count, positive

SUMMARY = "draw images of a data set with their boxes on one sheet"
EXAMPLES = (
    "focaldet data show BCCD --split val --class Platelets --out sheet.jpg",
    "focaldet data show BCCD --flagged --out flagged.jpg",
)


def add_arguments(parser: Parser) -> None:
    add_sources(parser.add_argument)
    add = parser.add_argument
    add("--out", required=True, metavar="FILE", help="picture to write, a new .jpg or .png")
    add("--split", default="train", metavar="NAME", help="to take images of")
    add("--count", type=positive, default=12, metavar="N", help="images")
    add("--seed", type=count, default=0, help="of their choice")
    add("--class", dest="class_name", metavar="NAME", help="only images that have this class")
    add("--flagged", action="store_true", help="those that `data check` warns of, the worst first")
    add_detector(add)


def run(args: argparse.Namespace) -> None:
    out = new_file(args.out, ".jpg", ".png")
    found = sources(args)
    if args.split not in found:
        raise UserError(f"--split {args.split}: not there; expected {' or '.join(found)}")
    split = Split.read(args.split, found[args.split], detector(args))
    names = split.table.class_names
    if args.class_name is not None and args.class_name not in names:
        raise UserError(f"--class {args.class_name}: not there; expected of {', '.join(names)}")
    titles = flagged(split) if args.flagged else None
    rows = choose(split, args.count, args.seed, args.class_name, titles)
    if not rows and args.flagged:
        raise UserError(f"{split.table.source}: --flagged: nothing to show, no image has a warning")
    if not rows:
        raise UserError(f"{split.table.source}: no images to show; expected some")
    sheet = contact_sheet(split, rows, titles or {})
    with replacing(out) as temporary:
        sheet.save(temporary, quality=90)
    print(f"{out}: {len(rows)} of {len(split.table.image_ids)} images of {split.name}")
