"""The command line: `focaldet demo | env | train | evaluate | detect | convert | export`.

Arguments (`arguments.py`) become data sets, models and recipes here; the work is done elsewhere.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import select
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from .arguments import FLIPS, PRESETS, make_parser
from .checkpoint import OlderCheckpointWarning, generations, load_model, save_checkpoint
from .data import (
    CocoDataset,
    Compose,
    DetectionDataset,
    VocDataset,
    eval_transform,
    train_transform,
)
from .data.coco import read_coco
from .demo import demo
from .detect import describe, detect
from .distributed import Ranks, join
from .env import report
from .errors import DataWarning, EndedElsewhere, UserError
from .evaluate import (
    evaluate_detections,
    evaluate_model,
    match_categories,
    table,
)
from .export import metadata, package, save
from .files import read_json, read_lines, write_atomically
from .models import RetinaNet
from .models.backbones import TIMM, TimmBody, published_statistics
from .ops import AnchorGrid
from .train import BEST, LAST, Recipe, train
from .weights import convert, load_body, read_source


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command line; returns the exit code: 0, 2 for bad input, 130 for Ctrl-C, 141 where
    nobody reads what it prints any more."""
    try:
        with _warnings_in_one_line():
            parser = make_parser()
            args = parser.parse_args(argv)
            if args.command is None:
                parser.print_help()
            else:
                COMMANDS[args.command](args)
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
    return 0


def _nobody_reads() -> bool:
    """Whether it is stdout that broke, as in `focaldet env | head -1`, which is nobody's error."""
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)
    broken = any(event & select.POLLERR for _, event in poll.poll(0))
    if broken:  # or Python would complain of it in its last flush
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return broken


def _demo(args: argparse.Namespace) -> None:
    demo(args.out, args.seed)


def _env(args: argparse.Namespace) -> None:
    print(report())


def _train(args: argparse.Namespace) -> None:
    if not args.voc and not (args.train and args.val and args.images):
        raise UserError("expected --train, --val and --images, or --voc")
    with join(args.device and _device(args.device), args.timeout) as ranks:
        _train_as(ranks, args)


def _train_as(ranks: Ranks, args: argparse.Namespace) -> None:
    """What each process of a run does, by the same arguments."""
    horizontal, vertical = FLIPS[args.flip]
    transform = train_transform(args.size, horizontal_flip=horizontal, vertical_flip=vertical)
    train_set = _dataset(args, args.train, args.images, args.train_split, transform)
    val_set = _dataset(
        args,
        args.val,
        args.val_images or args.images,
        args.val_split,
        eval_transform(args.size),
    )
    torch.manual_seed(args.seed)
    model = RetinaNet(
        train_set.num_classes,
        args.backbone,
        norm=args.norm,
        anchor_grid=AnchorGrid.torchvision(sizes=[args.anchor_size * 2**i for i in range(5)]),
        min_size=args.size,
        max_size=args.size,
        loss=args.loss,
        alpha=args.alpha,
        gamma=args.gamma,
        **PRESETS[args.preset],
        **_statistics(args),
    )
    # What torchrun has started again goes on, if it had come to a checkpoint. Rank 0 says so: other
    # machines may see the folder as it was.
    resume = args.resume or (ranks.again and ranks.first(lambda: bool(generations(args.out))))
    if args.backbone_weights and not resume:  # a resumed run has its own
        _load_body(model, args.backbone_weights)
    recipe = Recipe(**{f.name: getattr(args, f.name) for f in dataclasses.fields(Recipe)})
    scores = train(model, train_set, val_set, args.out, recipe, ranks=ranks, resume=resume)
    if ranks.main:
        _print_scores(scores, val_set.to_coco())
        print(f"\n{args.out}: {BEST}, {LAST}, metrics.jsonl, curves.png")


def _evaluate(args: argparse.Namespace) -> None:
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
            ground_truth, read_json(args.detections), args.detections, args.evaluator
        )
    else:
        model, description = load_model(args.weights, _device(args.device))
        transform = eval_transform(model.config["max_size"], model.config["min_size"])
        dataset = _dataset(args, args.data, args.images, args.split, transform)
        ids = match_categories(description.class_names, dataset, args.weights)
        scores = evaluate_model(model, dataset, ids, args.batch_size, args.workers, args.evaluator)
        ground_truth = dataset.to_coco()
    _print_scores(scores, ground_truth)
    if args.json:
        write_atomically(args.json, (json.dumps(scores, indent=1) + "\n").encode())


def _detect(args: argparse.Namespace) -> None:
    written = detect(
        args.paths,
        args.weights,
        args.out,
        args.score_threshold,
        _device(args.device),
        args.batch,
    )
    print(f"{describe(read_json(written))}; pictures and {written.name} are in {args.out}")


def _convert(args: argparse.Namespace) -> None:
    out = _new_file(args.out, ".safetensors")
    names = args.class_names and read_lines(args.class_names)
    converted = convert(
        read_source(args.weights),
        args.layout,
        style=args.style,
        class_names=names,
        norm_eps=args.norm_eps,
    )
    save_checkpoint(out, converted.weights, converted.description)
    backbone, names = converted.description.model["backbone"], converted.description.class_names
    some = ", ".join([*names[:3], *(["..."] if len(names) > 3 else [])])
    print(
        f"{out}: a RetinaNet of {converted.layout} on a {backbone}, {len(names)} classes ({some})"
    )


def _export(args: argparse.Namespace) -> None:
    _new_file(args.out, ".pt2")
    model, description = load_model(args.weights, _device(args.device))
    write = save if args.program else package
    write(model, args.out, metadata(model, description.class_names))
    print(f"{args.out}: {'exported program' if args.program else 'AOTInductor package'}")


def _new_file(name: str, suffix: str) -> Path:
    out = Path(name)
    if out.suffix != suffix:
        raise UserError(f"--out {out}: expected a file name that ends with {suffix}")
    if out.exists():
        raise UserError(f"--out {out}: exists already; name another file")
    return out


COMMANDS = {
    "demo": _demo,
    "env": _env,
    "train": _train,
    "evaluate": _evaluate,
    "detect": _detect,
    "convert": _convert,
    "export": _export,
}


def _dataset(
    args: argparse.Namespace,
    annotations: str | None,
    images: str | None,
    split: str,
    transform: Compose,
) -> DetectionDataset:
    options: dict[str, Any] = {
        "transform": transform,
        "skip_bad_images": args.skip_bad_images,
        "skip_bad_boxes": args.skip_bad_boxes,
        "cache": args.cache,
    }
    if args.voc:
        return VocDataset(args.voc, split, **options)
    if not (annotations and images):
        raise UserError("expected --data and --images, or --voc")
    return CocoDataset(annotations, images, **options)


def _statistics(args: argparse.Namespace) -> dict[str, Any]:
    """Of the images, as the weights that the backbone begins with expect."""
    if not (args.backbone_weights and args.backbone.startswith(TIMM)):
        return {}
    mean, std = published_statistics(args.backbone)
    return {"image_mean": mean, "image_std": std}


def _load_body(model: RetinaNet, weights: str) -> None:
    if weights != "download":
        load_body(model, weights)
    elif isinstance(model.backbone.body, TimmBody):
        model.backbone.body.load()
    else:
        raise UserError(
            "--backbone-weights download: for timm/<name> only; for a ResNet name a file of "
            "torchvision's weights"
        )


def _print_scores(scores: dict[str, Any], ground_truth: dict[str, Any]) -> None:
    print(table(scores, {str(c["id"]): str(c["name"]) for c in ground_truth["categories"]}))


def _device(name: str | None) -> str:
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
