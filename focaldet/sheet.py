"""Contact sheets: many annotated images in one picture."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image

from .check import CHECKS, DataSet, Split
from .check.registry import NOTE
from .data import ImageError, read_image
from .data.images import inside
from .errors import UserError
from .plots import Box, class_colour, draw_boxes, side_by_side

CELL = 360  # pixels, the longest side of an image
COLUMNS = 4
_GREY = "#888888"


def flagged(split: Split) -> dict[int, str]:
    """What the checks of annotations have errors and warnings about, by row of the image: those
    with the most findings first."""
    data = DataSet([split], split.detector)
    rows = {name: row for row, name in enumerate(split.table.file_names)}
    found: dict[int, Counter[str]] = defaultdict(Counter)
    for check in CHECKS.values():
        if check.severity != NOTE and not check.reads_images:
            for finding in check.find(data):
                if finding.file in rows:
                    found[rows[finding.file]][check.id] += 1
    worst = sorted(found, key=lambda row: -found[row].total())
    return {row: ", ".join(f"{n} {name}" for name, n in found[row].items()) for row in worst}


def choose(
    split: Split,
    count: int,
    seed: int = 0,
    class_name: str | None = None,
    among: Mapping[int, str] | None = None,
) -> list[int]:
    """Rows of up to `count` images: the first of `among`, or drawn; of one class, if named."""
    rows = list(among) if among is not None else list(range(len(split.table.image_ids)))
    if class_name is not None:
        label = split.table.class_names.index(class_name)
        having = set(split.table.image_rows[split.table.labels == label].tolist())
        rows = [row for row in rows if row in having]
    if among is None:
        drawn = np.random.default_rng(seed).permutation(len(rows))[:count]
        rows = [rows[place] for place in sorted(drawn)]
    return rows[:count]


def contact_sheet(split: Split, rows: Sequence[int], titles: Mapping[int, str]) -> Image.Image:
    """The images of `rows` with their boxes, under their names and titles, with a legend."""
    lines = []
    for start in range(0, len(rows), COLUMNS):
        cells = [(_title(split, row, titles), _cell(split, row)) for row in rows[start:][:COLUMNS]]
        lines.append(side_by_side(cells))
    width = max(line.width for line in lines)
    sheet = Image.new("RGB", (width, sum(line.height for line in lines)), "white")
    top = 0
    for line in lines:
        sheet.paste(line, (0, top))
        top += line.height
    return side_by_side([(f"{split.name}: {split.table.source}", sheet)], split.table.class_names)


def _title(split: Split, row: int, titles: Mapping[int, str]) -> str:
    text = titles.get(row, f"{split.counts[row]} boxes")
    return f"{split.table.file_names[row][-24:]}: {text}"[: CELL // 7]


def _cell(split: Split, row: int) -> Image.Image:
    """One image, scaled to a cell; grey where it cannot be read."""
    height, width = split.table.sizes[row].tolist()
    scale = CELL / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    try:
        path = inside(split.source.images, split.table.file_names[row])
        image = read_image(path, (height, width)).resize(size, Image.Resampling.BILINEAR)
    except (ImageError, UserError):
        image = Image.new("RGB", size, _GREY)
    objects = np.flatnonzero((split.table.image_rows == row) & (split.problems == 0))
    boxes = []
    for label, (x, y, w, h) in zip(
        split.table.labels[objects], split.table.boxes[objects] * scale, strict=True
    ):
        name = split.table.class_names[label]
        boxes.append(Box((x, y, x + w, y + h), name, class_colour(int(label))))
    return draw_boxes(image, boxes, tags=False)
