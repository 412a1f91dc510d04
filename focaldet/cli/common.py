"""What several commands share: their data, their device, how they print scores."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from ..data import CocoDataset, Compose, DetectionDataset, VocDataset, YoloDataset
from ..data.folder import names_a_folder, open_folder
from ..errors import UserError
from ..evaluate import table
from ..scoring import EVALUATORS

Add = Callable[..., Any]  # a parser's, or a group's, add_argument


def add_data(add: Add) -> None:
    add("--voc", metavar="DIR", help="folder in Pascal VOC's form, instead of COCO JSON")
    add("--yolo", metavar="DIR", help="folder in YOLO's form, or its data.yaml, instead")
    add("--cache", metavar="DIR", help="keep decoded images here, for other epochs and runs")
    add_skips(add)


def add_skips(add: Add) -> None:
    add("--skip-bad-images", action="store_true", help="name and leave out unreadable images")
    add("--skip-bad-boxes", action="store_true", help="name and leave out boxes without area")


def dataset(
    args: argparse.Namespace,
    annotations: str | None,
    images: str | None,
    split: str,
    transform: Compose,
) -> DetectionDataset:
    """The data set of `add_data`'s arguments, and these."""
    options: dict[str, Any] = {
        "transform": transform,
        "skip_bad_images": args.skip_bad_images,
        "skip_bad_boxes": args.skip_bad_boxes,
        "cache": args.cache,
    }
    if args.voc and args.yolo:
        raise UserError("--voc and --yolo: expected one of them")
    if args.voc:
        return VocDataset(args.voc, split, **options)
    if args.yolo:
        return YoloDataset(args.yolo, split, **options)
    if annotations and not images and names_a_folder(annotations):
        return open_folder(annotations, split, **options)
    if not (annotations and images):
        raise UserError("expected --data and --images, --data of a folder, or --voc or --yolo")
    return CocoDataset(annotations, images, **options)


def add_evaluator(add: Add) -> None:
    add(
        "--evaluator",
        choices=EVALUATORS,
        default="pycocotools",
        help='ultrafast: the same numbers sooner; needs pip install "focaldet[fast-eval]"',
    )


def print_scores(scores: dict[str, Any], ground_truth: dict[str, Any]) -> None:
    print(table(scores, {str(c["id"]): str(c["name"]) for c in ground_truth["categories"]}))


def add_device(add: Add) -> None:
    add("--device", help="such as cpu or cuda:1; a GPU where there is one")


def device(name: str | None) -> str:
    """The device of this name, if it can be used; the best one there is where none is named."""
    if name is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:  # torch's texts go on for many lines
        reason = str(error).splitlines()[0]
        raise UserError(
            f"--device {name}: cannot be used here ({reason}); without --device one is chosen"
        ) from error
    return name


def new_file(name: str, *suffixes: str, option: str = "--out") -> Path:
    """The path of a file to write, which is not there yet."""
    out = Path(name)
    if out.suffix not in suffixes:
        expected = " or ".join(suffixes)
        raise UserError(f"{option} {out}: expected a file name that ends with {expected}")
    if out.exists():
        raise UserError(f"{option} {out}: exists already; name another file")
    if not out.parent.is_dir():
        raise UserError(f"{option} {out}: there is no folder {str(out.parent)!r}; make it first")
    return out
