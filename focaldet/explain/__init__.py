"""A page for each image that shows what a detector does on it, from anchors to detections."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from tqdm import tqdm

from ..checkpoint import load_model
from ..data import Table, read_image
from ..detect import find_images, picture_names
from ..errors import UserError
from ..files import new_folder, write_atomically
from ..models import for_inference
from .look import Look, look
from .page import page
from .truth import Truth

__all__ = ["Look", "Truth", "explain", "look", "page"]


def explain(
    paths: Iterable[str | Path],
    weights: str | Path,
    out: str | Path,
    annotations: Table | None = None,
    score_threshold: float = 0.5,
    device: str = "cpu",
) -> list[Path]:
    """Writes an HTML page for each image file, and each in folders, to the folder `out`.

    `out` must be new or empty; the pages, whose paths are returned, need no other file. Detections
    are those of `focaldet.detect.detect` with the same threshold. With `annotations` each image's
    objects are found by the name of its file. Raises `UserError` for a path without images, for
    annotations of other classes than the checkpoint's, and, after all others are done, for images
    that cannot be read or have no annotations there.
    """
    files = find_images(paths)
    names = picture_names(files.values(), ".html")
    model, description = load_model(weights, device)
    truth = None if annotations is None else Truth(annotations, description.class_names, weights)
    out = new_folder(out)
    ready = for_inference(model)
    written, unknown, unreadable = [], [], []
    for file, name in zip(tqdm(files, unit=" images", disable=None), names, strict=True):
        try:
            annotated = truth.of(file) if truth else None
        except UserError as error:
            unknown.append(str(error))
            continue
        try:
            picture = read_image(file, annotated.size if annotated else None)
        except UserError as error:
            unreadable.append(str(error))
            continue
        seen = look(
            ready,
            picture,
            annotated.target if annotated else None,
            score_threshold,
            crowd=annotated.crowd if annotated else None,
            name=file.name,
            weights=str(weights),
            class_names=description.class_names,
        )
        path = out / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, page(seen).encode())
        written.append(path)
    if failures := unreadable + unknown:
        counts = {"unreadable": len(unreadable), "not told by the annotations": len(unknown)}
        words = ", ".join(f"{n} {what}" for what, n in counts.items() if n)
        raise UserError(failures[0] + f" (of {len(files)} images: {words})" * (len(files) > 1))
    return written
