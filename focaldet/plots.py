"""Pictures drawn with Pillow alone: training curves, and detections beside the ground truth."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

# Twelve hues told apart by eye, in an order in which neighbours differ most.
COLOURS = (
    "#e6194b", "#3cb44b", "#4363d8", "#f58231", "#911eb4", "#00a3a3",
    "#f032e6", "#7a9a01", "#9a6324", "#800000", "#000075", "#808000",
)  # fmt: skip
_INK, _GRID, _PAPER = "#303030", "#dddddd", "#ffffff"

_SMALLEST = 1e-6  # on a logarithmic axis

Points = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Box:
    """One box to draw: pixels [x1, y1, x2, y2], class name, and a score unless ground truth."""

    box: tuple[float, float, float, float]
    name: str
    colour: str
    score: float | None = None


def class_colour(label: int) -> str:
    return COLOURS[label % len(COLOURS)]


def draw_boxes(image: Image.Image, boxes: Sequence[Box], tags: bool = True) -> Image.Image:
    """A copy of the picture with the boxes outlined, the highest score on top, and tagged."""
    picture = image.convert("RGB")  # always a copy for "RGB" too
    draw = ImageDraw.Draw(picture)
    side = max(picture.size)
    width = max(2, round(side / 300))
    font = _font(min(22, max(9, round(side / 48))))
    for item in sorted(boxes, key=lambda item: item.score or 0.0):
        x1, y1, x2, y2 = item.box
        draw.rectangle((x1, y1, max(x1, x2), max(y1, y2)), outline=item.colour, width=width)
        if not tags:
            continue
        tag = item.name if item.score is None else f"{item.name} {item.score:.2f}"
        left, top, right, bottom = font.getbbox(tag)
        height = bottom - top + 2
        y = y1 - height if y1 >= height else y1  # above the box where there is room, else inside
        x = max(0.0, min(x1, picture.width - (right - left) - 2))
        draw.rectangle((x, y, x + right - left + 2, y + height), fill=item.colour)
        draw.text((x + 1 - left, y + 1 - top), tag, fill=_PAPER, font=font)
    return picture


def side_by_side(
    pictures: Sequence[tuple[str, Image.Image]], class_names: Sequence[str] = ()
) -> Image.Image:
    """The pictures, each under its title, in one row above a legend of the classes."""
    font, bar, gap = _font(15), 24, 8
    width = sum(picture.width for _, picture in pictures) + gap * (len(pictures) - 1)
    height = max(picture.height for _, picture in pictures)
    sheet = Image.new("RGB", (width, height + (2 if class_names else 1) * bar), _PAPER)
    draw = ImageDraw.Draw(sheet)
    x = 0
    for title, picture in pictures:
        draw.text((x + 4, 3), title, fill=_INK, font=font)
        sheet.paste(picture, (x, bar))
        x += picture.width + gap
    x = 4
    for label, name in enumerate(class_names):
        draw.text((x, bar + height + 3), name, fill=class_colour(label), font=font)
        x += round(font.getbbox(name)[2]) + 2 * gap
    return sheet


def training_curves(
    losses: Mapping[str, Points], averages: Mapping[str, Points], step_label: str = "step"
) -> Image.Image:
    """Loss parts by step (log scale) beside average precision by epoch (0 to 1)."""
    sheet = Image.new("RGB", (1120, 400), _PAPER)
    _chart(sheet, (0, 0, 560, 400), losses, f"loss by {step_label}", logarithmic=True)
    _chart(sheet, (560, 0, 1120, 400), averages, "average precision by epoch", top=1.0)
    return sheet


def smooth(points: Points, window: int) -> list[tuple[float, float]]:
    """Means of consecutive runs of `window` points: what a curve of thousands of steps shows."""
    runs = [points[i : i + window] for i in range(0, len(points), window)]
    return [(sum(x for x, _ in run) / len(run), sum(y for _, y in run) / len(run)) for run in runs]


def _chart(
    sheet: Image.Image,
    area: tuple[int, int, int, int],
    series: Mapping[str, Points],
    title: str,
    logarithmic: bool = False,
    top: float | None = None,
) -> None:
    draw, font = ImageDraw.Draw(sheet), _font(13)
    left, upper, right, lower = area[0] + 58, area[1] + 36, area[2] - 18, area[3] - 34
    draw.text((left, area[1] + 10), title, fill=_INK, font=_font(15))

    def height(value: float) -> float:
        return math.log10(max(value, _SMALLEST)) if logarithmic else value

    points = [point for line in series.values() for point in line if math.isfinite(point[1])]
    x_low, x_high = _span([x for x, _ in points])
    y_low, y_high = _span([y for _, y in points]) if top is None else (0.0, top)
    y_ticks = _log_ticks(y_low, y_high) if logarithmic else _ticks(y_low, y_high)
    y_low, y_high = height(y_ticks[0]), height(y_ticks[-1])

    def place(x: float, h: float) -> tuple[float, float]:
        return (
            left + (x - x_low) / (x_high - x_low) * (right - left),
            lower - (h - y_low) / (y_high - y_low) * (lower - upper),
        )

    for y_value in y_ticks:
        _, y = place(x_low, height(y_value))
        draw.line((left, y, right, y), fill=_GRID)
        draw.text((left - 6, y), f"{y_value:g}", fill=_INK, font=font, anchor="rm")
    for x_value in _ticks(x_low, x_high, smallest=1):
        x, _ = place(x_value, y_low)
        draw.line((x, lower, x, lower + 4), fill=_INK)
        draw.text((x, lower + 7), f"{x_value:g}", fill=_INK, font=font, anchor="ma")
    draw.line((left, upper, left, lower, right, lower), fill=_INK)

    for i, (name, line) in enumerate(series.items()):
        path = [place(x, height(y)) for x, y in line if math.isfinite(y)]
        if len(path) > 1:
            draw.line(path, fill=COLOURS[i], width=2, joint="curve")
        for x, y in path if len(path) < 40 else []:
            draw.ellipse((x - 2.5, y - 2.5, x + 2.5, y + 2.5), fill=COLOURS[i])
        y = upper + 4 + 18 * i if logarithmic else lower - 20 - 18 * i
        draw.line((right - 130, y + 8, right - 112, y + 8), fill=COLOURS[i], width=3)
        draw.text((right - 106, y), name, fill=_INK, font=font)


def _span(values: Sequence[float]) -> tuple[float, float]:
    if not values:
        return 0.0, 1.0
    low, high = min(values), max(values)
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def _ticks(low: float, high: float, about: int = 5, smallest: float = 0.0) -> list[float]:
    """Round numbers (1, 2 or 5 times a power of ten apart) from `low` to `high`."""
    rough = max((high - low) / about, smallest)
    unit = 10.0 ** math.floor(math.log10(rough))
    step = next(unit * m for m in (1, 2, 5, 10) if unit * m >= rough * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 times powers of ten, from the last one below `low` to the first above `high`."""
    low, high = max(low, _SMALLEST), max(high, 2 * _SMALLEST)
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks = [m * 10.0**n for n in decades for m in (1, 2, 5)]
    first = max(i for i, tick in enumerate(ticks) if tick <= low)
    last = min(i for i, tick in enumerate(ticks) if tick >= high)
    return ticks[first : last + 1]


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)
