"""`focaldet evaluate`."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from ..checkpoint import load_model
from ..data import eval_transform
from ..data.coco import read_coco
from ..detect import SIZES
from ..errors import UserError
from ..evaluate import evaluate_detections, evaluate_model, match_categories
from ..files import read_json, write_atomically
from ..scoring import MAX_DETECTIONS, up_to
from .common import add_data, add_device, add_evaluator, dataset, device, print_scores
from .parser import Parser, count, positive

SUMMARY = "score a model, or a file of detections, as pycocotools does"
EXAMPLES = (
    "focaldet evaluate --weights runs/cells/best.safetensors --data val.json --images images",
    "focaldet evaluate --data val.json --detections detections.json --json scores.json",
)


def add_arguments(parser: Parser) -> None:
    add = parser.add_argument
    add("--weights", metavar="FILE", help="checkpoint of the model to run")
    add("--detections", metavar="JSON", help="detections to score instead, in COCO's results form")
    add("--data", metavar="PATH", help="ground truth: COCO JSON, or the folder of a data set")
    add("--images", metavar="DIR", help="folder of the images")
    add("--split", default="val", metavar="NAME", help="of a folder, and with --voc or --yolo")
    add_data(add)
    add("--json", metavar="FILE", help="write the scores here too")
    add_evaluator(add)
    add(
        "--max-detections",
        type=positive,
        default=MAX_DETECTIONS[-1],
        help="boxes of an image that are scored",
    )
    add("--batch-size", type=positive, default=8, help="images in a step")
    add("--workers", type=count, default=2, help="processes that load images")
    add_device(add)


def run(args: argparse.Namespace) -> None:
    inputs = [Path(p).resolve() for p in (args.data, args.detections, args.weights) if p]
    if args.json and Path(args.json).resolve() in inputs:
        raise UserError(f"--json {args.json}: is one of the inputs; name another file")
    if bool(args.weights) == bool(args.detections):
        raise UserError("expected either --weights, a model to run, or --detections, to score")
    if args.detections:
        if not args.data:
            raise UserError("expected --data, the ground truth, beside --detections")
        read_coco(args.data)  # names the first entry that is ill-formed
        ground_truth = read_json(args.data)
        scores = evaluate_detections(
            ground_truth,
            read_json(args.detections),
            args.detections,
            args.evaluator,
            up_to(args.max_detections),
        )
    else:
        model, description = load_model(args.weights, device(args.device))
        transform = eval_transform(*(model.config[name] for name in SIZES))
        truth = dataset(args, args.data, args.images, args.split, transform)
        ids = match_categories(description.class_names, truth, args.weights)
        scores = evaluate_model(
            model,
            truth,
            ids,
            args.batch_size,
            args.workers,
            args.evaluator,
            max_detections=args.max_detections,
        )
        ground_truth = truth.to_coco()
    print_scores(scores, ground_truth)
    if args.json:
        write_atomically(args.json, (json.dumps(scores, indent=1) + "\n").encode())
