"""Detection on image files: pictures with the boxes drawn in, and the boxes as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePath
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from .checkpoint import load_model
from .data import ImageError, eval_transform, read_image
from .errors import UserError
from .files import new_folder, write_atomically
from .models import RetinaNet
from .plots import Box, class_colour, draw_boxes

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp", ".gif", ".ppm", ".jp2")


@torch.inference_mode()
def detect_batch(
    model: RetinaNet,
    images: Sequence[Tensor],  # [3, H, W] each, as eval_transform leaves them
    original_sizes: Sequence[tuple[int, int]],  # (height, width) before it
) -> list[dict[str, Tensor]]:
    """Boxes in pixels of the original images, scores and labels of each image, on the CPU."""
    device = next(model.parameters()).device
    found = model([image.to(device, non_blocking=True) for image in images])
    results = []
    for image, (height, width), detections in zip(images, original_sizes, found, strict=True):
        ratio = torch.tensor([width / image.shape[-1], height / image.shape[-2]]).repeat(2)
        results.append({name: value.cpu() for name, value in detections.items()})
        results[-1]["boxes"] *= ratio
    return results


def detect(
    paths: Iterable[str | Path],
    weights: str | Path,
    out: str | Path,
    score_threshold: float = 0.5,
    device: str = "cpu",
) -> Path:
    """Draws the detections of a checkpoint on image files and folders of them.

    Writes one picture for each image and `detections.json`, whose path it returns, to the folder
    `out`, which must be new or empty: nothing that exists is written to. An image's EXIF
    orientation is applied, and boxes are in pixels of the upright image. Raises `UserError` for a
    path without images, and, after all others are done, for images that cannot be read.
    """
    files = find_images(paths)
    names = picture_names(files.values())
    model, description = load_model(weights, device)
    out = new_folder(out)
    model.score_thresh = score_threshold
    transform = eval_transform(model.config["max_size"])
    records, failures = [], []
    for file, name in zip(tqdm(files, unit=" images", disable=None), names, strict=True):
        try:
            picture = read_image(file)
        except ImageError as error:
            failures.append(str(error))
            continue
        image, _ = transform(picture, torch.zeros(0, 4), torch.Generator())
        (found,) = detect_batch(model, [image], [(picture.height, picture.width)])
        target = out / name
        target.parent.mkdir(parents=True, exist_ok=True)
        draw_boxes(picture, boxes_of(found, description.class_names)).save(target, quality=92)
        records.append(
            {
                "file": str(file),
                "picture": name,
                "width": picture.width,
                "height": picture.height,
                "detections": [
                    {**record, "name": description.class_names[label]}
                    for record, label in zip(
                        coco_records(found, description.category_ids),
                        found["labels"].tolist(),
                        strict=True,
                    )
                ],
            }
        )
    if records:
        write_atomically(out / "detections.json", json.dumps(records, indent=1).encode())
    if failures:
        more = f" ({len(failures)} of {len(files)} images are bad)" if len(files) > 1 else ""
        raise UserError(failures[0] + more)
    return out / "detections.json"


def boxes_of(items: dict[str, Tensor], class_names: Sequence[str]) -> list[Box]:
    """What there is to draw of a detection, or of a target, which has no scores."""
    scores = items["scores"].tolist() if "scores" in items else [None] * len(items["labels"])
    rows = zip(items["boxes"].tolist(), items["labels"].tolist(), scores, strict=True)
    return [
        Box(tuple(box), class_names[label], class_colour(label), score)
        for box, label, score in rows
    ]


def coco_records(found: dict[str, Tensor], category_ids: Sequence[int]) -> list[dict[str, Any]]:
    """Detections in COCO's results form, but for the image id: bbox is [x, y, width, height]."""
    rows = zip(*(found[key].tolist() for key in ("boxes", "labels", "scores")), strict=True)
    return [
        {
            "category_id": category_ids[label],
            "bbox": [x1, y1, x2 - x1, y2 - y1],
            "score": score,
        }
        for (x1, y1, x2, y2), label, score in rows
    ]


def find_images(paths: Iterable[str | Path]) -> dict[Path, PurePath]:
    """Each image file once, with its path below the folder it was found in (a file: its name)."""
    files: dict[Path, PurePath] = {}
    for path in map(Path, paths):
        if path.is_dir():
            found = sorted(p for p in path.rglob("*") if p.suffix.lower() in SUFFIXES)
            found = [p for p in found if p.is_file()]
            if not found:
                raise UserError(f"{path}: a folder without images ({', '.join(SUFFIXES)})")
            files.update((p, p.relative_to(path)) for p in found)
        elif path.exists():
            files[path] = PurePath(path.name)
        else:
            raise UserError(f"{path}: no such file or folder")
    return files


def picture_names(places: Iterable[PurePath]) -> list[str]:
    """A different .jpg name for each, with "-2", "-3", ... where two would be the same."""
    names: list[str] = []
    used: set[str] = set()  # lower case: some file systems do not tell case apart
    for place in places:
        stem = place.with_suffix("").as_posix()
        name, number = f"{stem}.jpg", 1
        while name.lower() in used:
            number += 1
            name = f"{stem}-{number}.jpg"
        used.add(name.lower())
        names.append(name)
    return names


def describe(records: list[dict[str, Any]]) -> str:
    """How many of what, on how many images."""
    counts: dict[str, int] = {}
    for record in records:
        for detection in record["detections"]:
            counts[detection["name"]] = counts.get(detection["name"], 0) + 1
    found = ", ".join(f"{n} {name}" for name, n in sorted(counts.items())) or "nothing"
    return f"{found} on {len(records)} image{'s' if len(records) != 1 else ''}"
