"""`focaldet figure 4`."""

from __future__ import annotations

import argparse
import json

from ...checkpoint import load_model
from ...data import eval_transform
from ...detect import SIZES
from ...evaluate import match_categories
from ...experiments.cumulative import GAMMAS, Numbers, cumulative_losses
from ...files import write_atomically
from ..common import add_data, add_device, dataset, device
from ..parser import Parser, count, number, positive

SUMMARY = "what part of the loss the easiest anchors have, by gamma, for a trained model"
EXAMPLES = (
    "focaldet figure 4 --weights runs/x/best.safetensors --data BCCD --out figure4.svg",
    "focaldet figure 4 --weights runs/x/best.safetensors --data val.json --images images "
    "--out figure4.svg --json figure4.json",
)


def add_arguments(parser: Parser) -> None:
    add = parser.add_argument
    add("--weights", required=True, metavar="FILE", help="checkpoint of the model to run")
    add("--data", metavar="PATH", help="folder of a data set; or COCO JSON, with --images")
    add("--images", metavar="DIR", help="folder of the images")
    add("--split", default="val", metavar="NAME", help="of a folder, and with --voc or --yolo")
    add_data(add)
    add("--gammas", nargs="+", type=number, default=GAMMAS, metavar="G", help="of the losses")
    add("--limit", type=positive, metavar="N", help="only the first N images")
    add("--out", required=True, metavar="FILE", help=".svg or .png")
    add("--json", metavar="FILE", help="write the numbers here too")
    add("--workers", type=count, default=2, help="processes that load images")
    add_device(add)


def run(args: argparse.Namespace) -> None:
    from ...experiments.figures import cumulative, style  # matplotlib: not before it is asked for

    model, description = load_model(args.weights, device(args.device))
    transform = eval_transform(*(model.config[name] for name in SIZES))
    data = dataset(args, args.data, args.images, args.split, transform)
    ids = match_categories(description.class_names, data, args.weights)
    labels = [ids.index(category) for category in data.category_ids]
    numbers = cumulative_losses(
        model, data, labels, args.gammas, limit=args.limit, workers=args.workers
    )
    if args.json:
        write_atomically(args.json, (json.dumps(numbers) + "\n").encode())
    style.write(args.out, lambda: cumulative.figure(numbers))
    print(shares(numbers))


def shares(numbers: Numbers) -> str:
    """A line for each gamma: what the hardest background anchors have of the background's loss."""
    lines = []
    for row in numbers["gammas"]:
        hardest = row["background"]["share_of_hardest"].items()
        parts = (f"hardest {float(f):.0%} {share:.1%}" for f, share in hardest)
        lines.append(f"gamma {row['gamma']:g}, background: {', '.join(parts)} of the loss")
    return "\n".join(lines)
