"""Detection on image files: pictures with the boxes drawn in, and the boxes as JSON."""

from __future__ import annotations

import json
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any, NamedTuple, TypeVar

import torch
from PIL.Image import Image
from torch import Tensor
from tqdm import tqdm

from .checkpoint import load_model
from .data import ImageError, eval_transform, read_image
from .errors import UserError
from .files import new_folder, write_atomically
from .found import Found
from .models import Detection, RetinaNet, for_inference
from .models.transform import whole_strides
from .plots import Box, class_colour, draw_boxes

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp", ".gif", ".ppm", ".jp2")
BATCH = 4  # images
SIZES = ("max_size", "min_size", "max_scale")  # of a model's config: arguments of eval_transform

T = TypeVar("T")


@torch.inference_mode()
def detect_batch(
    model: RetinaNet,
    images: Sequence[Tensor],  # [3, H, W] each, as eval_transform leaves them
    original_sizes: Sequence[tuple[int, int]],  # (height, width) before it
) -> list[Detection]:
    """Boxes in pixels of the original images, scores and labels of each image, on the CPU."""
    device = next(model.parameters()).device
    on_device = [image.to(device, non_blocking=True) for image in images]
    found: list[Detection] = model(on_device, resize=model.transform.repeatable)
    results: list[Detection] = []
    for image, (height, width), detections in zip(images, original_sizes, found, strict=True):
        ratio = torch.tensor([width / image.shape[-1], height / image.shape[-2]]).repeat(2)
        boxes, scores, labels = (detections[k].cpu() for k in ("boxes", "scores", "labels"))
        results.append({"boxes": boxes * ratio, "scores": scores, "labels": labels})
    return results


def detect(
    paths: Iterable[str | Path],
    weights: str | Path,
    out: str | Path,
    score_threshold: float = 0.5,
    device: str = "cpu",
    batch: int = BATCH,
) -> Path:
    """Draws the detections of a checkpoint on image files and folders of them.

    Writes one picture for each image and `detections.json`, whose path it returns, to the folder
    `out`, which must be new or empty: nothing that exists is written to. An image's EXIF
    orientation is applied, and boxes are in pixels of the upright image. Up to `batch` images that
    the model pads to one size are detected together, which changes nothing but the rounding of
    convolutions: more padding would, and so images of other sizes wait for their like. Raises
    `UserError` for a path without images, and, after all others are done, for images that cannot be
    read.
    """
    files = find_images(paths)
    names = picture_names(files.values())
    model, description = load_model(weights, device)
    out = new_folder(out)
    model.score_thresh = score_threshold
    model = for_inference(model)
    transform = eval_transform(*(model.config[name] for name in SIZES))
    failures: list[str] = []

    def readable() -> Iterator[tuple[tuple[int, int], _Loaded]]:
        numbered = enumerate(zip(tqdm(files, unit=" images", disable=None), names, strict=True))
        for number, (file, name) in numbered:
            try:
                picture = read_image(file)
            except ImageError as error:
                failures.append(str(error))
                continue
            image, _ = transform(picture, torch.zeros(0, 4), torch.Generator())
            padded = whole_strides(*image.shape[-2:])
            yield padded, _Loaded(number, file, name, picture, image)

    records: dict[int, dict[str, Any]] = {}
    for group in alike(readable(), batch):
        sizes = [(each.picture.height, each.picture.width) for each in group]
        results = detect_batch(model, [each.image for each in group], sizes)
        for each, found in zip(group, results, strict=True):
            target = out / each.name
            target.parent.mkdir(parents=True, exist_ok=True)
            boxes = boxes_of(found, description.class_names)
            draw_boxes(each.picture, boxes).save(target, quality=92)
            records[each.number] = {
                "file": str(each.file),
                "picture": each.name,
                "width": each.picture.width,
                "height": each.picture.height,
                "detections": [
                    {**record, "name": description.class_names[label]}
                    for record, label in zip(
                        coco_records(found, description.category_ids),
                        found["labels"].tolist(),
                        strict=True,
                    )
                ],
            }
    if records:
        in_order = [records[number] for number in sorted(records)]
        write_atomically(out / "detections.json", json.dumps(in_order, indent=1).encode())
    if failures:
        more = f" ({len(failures)} of {len(files)} images are bad)" if len(files) > 1 else ""
        raise UserError(failures[0] + more)
    return out / "detections.json"


class _Loaded(NamedTuple):
    number: int  # among the files
    file: Path
    name: str  # of its picture
    picture: Image
    image: Tensor  # [3, H, W]


def alike(items: Iterable[tuple[Hashable, T]], most: int) -> Iterator[list[T]]:
    """Lists of at most `most` items of equal keys. Of items that wait for their like there are
    never more than those of four full lists."""
    waiting: dict[Hashable, list[T]] = {}
    for key, item in items:
        waiting.setdefault(key, []).append(item)
        if len(waiting[key]) == most:
            yield waiting.pop(key)
        elif sum(map(len, waiting.values())) >= 4 * most:
            yield waiting.pop(max(waiting, key=lambda other: len(waiting[other])))
    yield from waiting.values()


def boxes_of(items: Mapping[str, Any], class_names: Sequence[str]) -> list[Box]:
    """What there is to draw of a detection, or of a target, which has no scores."""
    scores = items["scores"].tolist() if "scores" in items else [None] * len(items["labels"])
    rows = zip(items["boxes"].tolist(), items["labels"].tolist(), scores, strict=True)
    return [
        Box(tuple(box), class_names[label], class_colour(label), score)
        for box, label, score in rows
    ]


def coco_records(found: Detection, category_ids: Sequence[int]) -> list[dict[str, Any]]:
    """Detections in COCO's results form, but for the image id: bbox is [x, y, width, height]."""
    columns = Found.on_image(0, found, category_ids)
    rows = (column.tolist() for column in (columns.category_ids, columns.boxes, columns.scores))
    return [
        {"category_id": category_id, "bbox": box, "score": score}
        for category_id, box, score in zip(*rows, strict=True)
    ]


def find_images(paths: Iterable[str | Path]) -> dict[Path, PurePath]:
    """Each image file once, with its path below the folder it was found in (a file: its name)."""
    files: dict[Path, PurePath] = {}
    for path in map(Path, paths):
        if path.is_dir():
            found = sorted(p for p in path.rglob("*") if p.suffix.lower() in SUFFIXES)
            found = [p for p in found if p.is_file()]
            if not found:
                raise UserError(
                    f"{path}: a folder without images; expected {', '.join(SUFFIXES)} in it"
                )
            files.update((p, p.relative_to(path)) for p in found)
        elif path.exists():
            files[path] = PurePath(path.name)
        else:
            raise UserError(f"{path}: no such file or folder; expected images, or folders of them")
    return files


def picture_names(places: Iterable[PurePath], suffix: str = ".jpg") -> list[str]:
    """A different name of this suffix for each, with "-2", "-3", ... where two would be equal."""
    names: list[str] = []
    used: set[str] = set()  # lower case: some file systems do not tell case apart
    for place in places:
        stem = place.with_suffix("").as_posix()
        name, number = f"{stem}{suffix}", 1
        while name.lower() in used:
            number += 1
            name = f"{stem}-{number}{suffix}"
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
