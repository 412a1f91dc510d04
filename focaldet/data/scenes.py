"""Generated scenes: a dense detection data set to learn, test and demonstrate on.

Every picture holds many small discs, squares and triangles, turned, shaded and partly covering one
another, on an uneven background with strokes and blots that are no objects: some forty boxes of
8 to 36 pixels among thousands of anchors, the imbalance that focal loss was made for.
"""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..errors import UserError

CLASSES = ("disc", "square", "triangle")
SIDES = (0, 4, 3)  # of each class
VISIBLE = 0.6  # least part of an object that the picture's edge and later objects leave to see


def generate_scenes(
    folder: str | Path,
    *,
    images: int,
    seed: int,
    size: int = 256,
    objects: tuple[int, int] = (20, 60),
    object_size: tuple[float, float] = (8, 28),
) -> Path:
    """Write a data set in COCO's format: ``instances.json`` and ``images/*.png``.

    The same arguments give the same annotations, byte for byte, and the same pictures. The folder
    appears only once it is complete.

    Args:
        folder: Must not exist, or be empty.
        images: Number of pictures, >= 1.
        seed: >= 0. Different seeds give unrelated pictures: one for training, one for validation.
        size: Side of the square pictures in pixels.
        objects: Least and greatest number of objects in a picture (fewer where no room is left).
        object_size: Least and greatest size in pixels, drawn log-uniformly: the diameter of a
            disc, and of the disc of the same area as a square or triangle.

    Returns:
        The path of instances.json.

    Raises:
        UserError: The folder holds something already, or cannot be written.
    """
    if images < 1 or not 1 <= objects[0] <= objects[1] or not 0 < object_size[0] <= object_size[1]:
        raise ValueError(
            "expected images >= 1 and rising ranges above 0, "
            f"got images={images}, objects={objects}, object_size={object_size}"
        )
    folder = Path(folder)
    try:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise UserError(f"{str(folder)!r} holds something already; expected an empty folder")
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as scratch:
            content = Path(scratch, "content")  # not scratch itself: only its owner may enter that
            _write(content, images, seed, size=size, objects=objects, object_size=object_size)
            if folder.exists():
                folder.rmdir()
            os.rename(content, folder)
    except OSError as error:
        raise UserError(
            f"cannot write scenes to {str(folder)!r}: {error.strerror}; name another folder"
        ) from error
    return folder / "instances.json"


def draw_scene(
    layout: np.random.RandomState,
    paint: np.random.RandomState,
    *,
    size: int,
    objects: tuple[int, int],
    object_size: tuple[float, float],
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One picture, uint8 [size, size, 3]; labels, int64 [n]; and who is seen where, [size, size].

    The last is 1 + number of the object that a pixel shows, 0 for the background. An object shows
    in the pixels that it covers by half or more, unless a later one does.

    What there is comes from `layout`, how it looks from `paint`: so no rounding of colours can
    change an annotation.
    """
    canvas = _background(paint, size)
    for _ in range(paint.randint(8, 16)):
        _draw_blot(canvas, paint)
        _draw_stroke(canvas, paint)

    owner = np.zeros((size, size), np.int16)
    labels: list[int] = []
    areas = seen = np.zeros(0)  # of each object, in pixels: in all, and what is seen of it
    wanted = layout.randint(objects[0], objects[1] + 1)
    for _ in range(10 * wanted):  # tries
        if len(labels) == wanted:
            break
        label = layout.randint(len(CLASSES))
        diameter = np.exp(layout.uniform(*np.log(object_size)))
        angle, centre = layout.uniform(0, 2 * np.pi), layout.uniform(0, size, 2)

        window, u, v = _window(size, centre, diameter + 4)
        distance = _distance(SIDES[label], diameter, angle, u, v)
        shown = distance <= 0
        hidden = np.bincount(owner[window][shown], minlength=len(labels) + 1)[1:]
        area = np.pi / 4 * diameter**2
        if shown.sum() < VISIBLE * area or (seen - hidden < VISIBLE * areas).any():
            continue
        labels.append(label)
        areas, seen = np.append(areas, area), np.append(seen - hidden, shown.sum())
        owner[window][shown] = len(labels)

        colour = _object_colour(paint, canvas[window].mean(axis=(0, 1)))
        shadow = _distance(SIDES[label], diameter, angle, u - 1.5, v - 2)
        _blend(canvas, window, 0.4 * np.clip(0.5 - shadow / 4, 0, 1), np.zeros(3))
        light = 1 - 0.3 * (u + v) / diameter - 0.35 * np.clip(1 + 8 * distance / diameter, 0, 1)
        _blend(canvas, window, np.clip(0.5 - distance, 0, 1), light[..., None] * colour)

    canvas += paint.uniform(0.04, 0.12) * (paint.random_sample(canvas.shape) - 0.5)  # noise
    return (canvas.clip(0, 1) * 255).round().astype(np.uint8), np.array(labels), owner


def _write(folder: Path, images: int, seed: int, **style: Any) -> None:
    (folder / "images").mkdir(parents=True)
    content: dict[str, Any] = {
        "info": {"description": f"focaldet generated scenes, seed {seed}"},
        "images": [],
        "annotations": [],
        "categories": [{"id": i, "name": name} for i, name in enumerate(CLASSES, start=1)],
    }
    for image_id in range(1, images + 1):
        # RandomState: its streams never change (NEP 19); those of Generator may with NumPy.
        layout, paint = (
            np.random.RandomState(np.random.MT19937(sequence))
            for sequence in np.random.SeedSequence(seed, spawn_key=(image_id,)).spawn(2)
        )
        picture, labels, owner = draw_scene(layout, paint, **style)
        name = f"{image_id:05d}.png"
        Image.fromarray(picture).save(folder / "images" / name, compress_level=1)
        content["images"].append(
            {"id": image_id, "file_name": name, "height": len(picture), "width": len(picture)}
        )
        for number, label in enumerate(labels.tolist(), start=1):
            shown = owner == number
            columns, rows = np.flatnonzero(shown.any(axis=0)), np.flatnonzero(shown.any(axis=1))
            x, y = int(columns[0]), int(rows[0])
            content["annotations"].append(
                {
                    "id": len(content["annotations"]) + 1,
                    "image_id": image_id,
                    "category_id": label + 1,
                    "bbox": [x, y, int(columns[-1]) + 1 - x, int(rows[-1]) + 1 - y],
                    "area": int(shown.sum()),
                    "iscrowd": 0,
                }
            )
    text = json.dumps(content, separators=(",", ":"))
    (folder / "instances.json").write_text(text + "\n", encoding="utf-8", newline="\n")


def _window(
    size: int, centre: np.ndarray, reach: float
) -> tuple[tuple[slice, slice], np.ndarray, np.ndarray]:
    """The pixels up to `reach` from `centre` (x, y): slices, and x and y of pixels from there."""
    (columns, u), (rows, v) = (
        (slice(low, high), np.arange(low, high) + 0.5 - middle)
        for middle in centre
        for low, high in [(max(0, int(middle - reach)), min(size, int(middle + reach) + 1))]
    )
    return (rows, columns), u, v[:, None]


def _distance(
    sides: int, diameter: float, angle: float, u: np.ndarray, v: np.ndarray
) -> np.ndarray:
    """Signed distance in pixels to the edge of a disc or regular polygon, negative inside.

    All have the area of the disc of this diameter. Outside a polygon's corners the distance to the
    nearest edge line stands in for that to the corner.
    """
    if sides == 0:
        distance: np.ndarray = np.hypot(u, v) - diameter / 2
        return distance
    # n triangles of height a (the apothem) and base 2 a tan(pi / n) make up the polygon.
    apothem = diameter / 2 * np.sqrt(np.pi / (sides * np.tan(np.pi / sides)))
    normals = angle + 2 * np.pi / sides * np.arange(sides)
    distance = np.max([u * np.cos(a) + v * np.sin(a) for a in normals], axis=0) - apothem
    return distance


def _blend(
    canvas: np.ndarray, window: tuple[slice, slice], alpha: np.ndarray, colour: np.ndarray
) -> None:
    canvas[window] += alpha[..., None] * (colour - canvas[window])


def _hue(random: np.random.RandomState, saturation: float) -> np.ndarray:
    """A colour of random hue with channels up to 1."""
    waves = 0.5 + 0.5 * np.cos(2 * np.pi * (random.rand() + np.array([0, 1 / 3, 2 / 3])))
    return 1 - saturation + saturation * waves


def _background(random: np.random.RandomState, size: int) -> np.ndarray:
    """A muted colour, mottled coarsely and finely: float32 [size, size, 3] around [0, 1]."""
    canvas = np.empty((size, size, 3), np.float32)
    canvas[:] = random.uniform(0.3, 0.8) * _hue(random, 0.35)
    for cells, strength in ((4, 0.08), (max(2, size // 10), 0.03)):
        for channel in range(3):
            coarse = Image.fromarray(random.normal(0, strength, (cells, cells)).astype(np.float32))
            canvas[..., channel] += np.asarray(
                coarse.resize((size, size), Image.Resampling.BICUBIC)
            )
    return canvas


def _draw_blot(canvas: np.ndarray, random: np.random.RandomState) -> None:
    """A soft spot without an edge."""
    radius = random.uniform(4, 16)
    window, u, v = _window(len(canvas), random.uniform(0, len(canvas), 2), 2 * radius)
    alpha = random.uniform(0.2, 0.6) * np.exp(-2 * (u**2 + v**2) / radius**2)
    _blend(canvas, window, alpha, random.rand() * _hue(random, 0.5))


def _draw_stroke(canvas: np.ndarray, random: np.random.RandomState) -> None:
    """A thin straight line."""
    half, width = random.uniform(8, 48), random.uniform(0.8, 2.5)
    window, u, v = _window(len(canvas), random.uniform(0, len(canvas), 2), half + width)
    angle = random.uniform(0, np.pi)
    along = np.clip(u * np.cos(angle) + v * np.sin(angle), -half, half)
    distance = np.hypot(u - along * np.cos(angle), v - along * np.sin(angle)) - width / 2
    alpha = random.uniform(0.3, 0.8) * np.clip(0.5 - distance, 0, 1)
    _blend(canvas, window, alpha, random.rand() * _hue(random, 0.5))


def _object_colour(random: np.random.RandomState, surroundings: np.ndarray) -> np.ndarray:
    """A colour that stands out from that of the surroundings."""
    while True:
        colour = random.uniform(0.2, 1) * _hue(random, random.uniform(0.3, 0.9))
        if np.linalg.norm(colour - surroundings) >= 0.35:
            return colour
