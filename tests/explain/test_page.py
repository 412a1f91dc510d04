"""A page is well-formed, needs nothing else, escapes every name, and stays small."""

from __future__ import annotations

import base64
import io
import random
import re
from html.parser import HTMLParser

import pytest
import torch
from looks import FAR, NAMES, look
from noise import noise
from PIL import Image

from focaldet.explain import page
from focaldet.explain.charts import Line, chart
from focaldet.explain.pictures import around, heat

HERE, NEAR = [10.0, 10, 50, 50], [10.0, 10, 50, 46]
VOID = {"meta", "br", "image", "rect", "path", "use", "polyline"}


class Reader(HTMLParser):
    """Checks that tags nest; collects them with their attributes, and the text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == [], f"left open: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len(attrs) == len(dict(attrs)), f"an attribute twice in {tag}"
        self.tags.append((tag, dict(attrs)))
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-1:]}"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        if not {"style", "script"} & set(self.open):
            self.words.append(data)

    def __contains__(self, words: str) -> bool:
        return words in re.sub(r"\s+", " ", " ".join(self.words))


@pytest.fixture
def full() -> str:
    return page(
        look(
            [(HERE, 0), (FAR, 2), ([60.0, 10, 90, 40], 1)],
            [(NEAR, 0.9, 0), (HERE, 0.8, 0), (FAR, 0.3, 2), ([0.0, 60, 30, 90], 0.7, 2)],
            anchors=[(HERE, 0), (NEAR, 0), (FAR, 1), ([0.0, 0, 20, 20], -1)],
            decoded=[(HERE, 0.8, 0), (NEAR, 0.9, 0), (FAR, 0.3, 2), ([0.0, 60, 30, 90], 0.7, 2)],
        )
    )


def test_it_is_well_formed_and_has_every_section(full: str) -> None:
    read = Reader(full)
    assert [tag for tag, _ in read.tags].count("h2") == 6
    for words in (
        "3, of which 1 found at IoU .5",
        "Found by detection 1 (score 0.90, IoU 0.90).",
        "Score too low: its best box has score 0.300",
        "Not learned: no anchor is matched to it",
        "4 candidates",
        "0.80 (IoU 0.90)",  # suppressed by the first
        "gamma 2",
        "gamma 0",
        "hard background",
        "AP at IoU .5",
    ):
        assert words in read, words


def test_it_needs_nothing_else(full: str) -> None:
    for tag, attributes in Reader(full).tags:
        assert tag not in {"link", "iframe", "object"}
        for name in ("src", "href", "xlink:href", "srcset", "action"):
            value = attributes.get(name) or "#"
            assert value.startswith(("#", "data:image/")), f"{tag} {name}={value[:60]}"
    assert not re.search(r"url\(|@import|https?:|\bfetch\b", full)


def test_embedded_pictures_are_whole(full: str) -> None:
    found = re.findall(r'"data:image/(\w+);base64,([^"]+)"', full)
    sizes = []
    for kind, text in found:
        with Image.open(io.BytesIO(base64.b64decode(text))) as picture:
            picture.load()
            assert picture.format == kind.upper()
            sizes.append(picture.size)
    assert sizes[0] == (100, 100) and found[0][0] == "jpeg", "the photo"
    assert len(sizes) == 1 + 4, "a map of its level, and one for each class"
    ids = re.findall(r' id="([^"]+)"', full)
    assert ids == ["photo"] and 'href="#photo"' in full


def test_names_are_escaped(full: str) -> None:
    assert NAMES[2] not in full and full.count("<script>") == 1
    assert NAMES[2] in Reader(full)
    named = look([(HERE, 0)], name='"><b onclick="x">', weights="<i>w</i>")
    read = Reader(page(named))
    assert not {"b", "i"} & {tag for tag, _ in read.tags}
    assert '"><b onclick="x">' in read and "<i>w</i>" in read


def test_without_ground_truth_each_part_says_so() -> None:
    read = Reader(page(look(None, [(NEAR, 0.9, 0)], anchors=[(HERE, -2)])))
    text = " ".join(read.words)
    assert text.count("Without ground truth (--data)") == 3
    assert "of which 0 found" not in text and "1 candidate" in read


def test_detections_on_a_crowd_are_not_false() -> None:
    within, across = [60.0, 60, 80, 80], [40.0, 60, 80, 80]  # all, and half, in the region
    found = [(NEAR, 0.9, 0), (within, 0.8, 1), (across, 0.7, 1), ([60.0, 60, 80, 79], 0.6, 2)]
    crowd = {"boxes": torch.tensor([[60.0, 50, 99, 99]]), "labels": torch.tensor([1])}
    text = page(look([(HERE, 0), (FAR, 1)], found, crowd=crowd, nms_iou=0.9))
    read = Reader(text)
    assert 'class="crowd"' in text and "crowd regions" in read
    assert "Crowd regions 1, with 2 detections, not counted" in read
    assert "False detections 1" in read  # of another class
    assert "bee 1 2 0.000" in read  # the object is not found, and nothing is false
    read = Reader(page(look([(HERE, 0), (FAR, 1)], found)))
    assert "False detections 3" in read and "rowd" not in read
    # What finds an object in the region is found, and not ignored as well.
    read = Reader(page(look([(HERE, 0), (within, 1)], found[:2], crowd=crowd)))
    assert "2, of which 2 found" in read and "False detections 0" in read
    assert "Crowd regions 1, with 0 detections" in read


def test_nothing_found_and_nothing_there() -> None:
    read = Reader(page(look([])))
    assert text_count(read, "There are no objects on this image.") == 2
    assert "No box scores above 0.05" in read


def text_count(read: Reader, words: str) -> int:
    return " ".join(read.words).count(words)


def test_many_objects_and_candidates_stay_small() -> None:
    """As of nuclei: what is left out is counted."""
    draw = random.Random(0)

    def box() -> list[float]:
        x, y = draw.uniform(0, 85), draw.uniform(0, 85)
        return [x, y, x + draw.uniform(4, 15), y + draw.uniform(4, 15)]

    things = [(box(), draw.randrange(3)) for _ in range(450)]
    found = [(box(), draw.uniform(0.06, 1), draw.randrange(3)) for _ in range(2000)]
    anchors = [(b, i) for i, (b, _) in enumerate(things) for _ in range(9)]
    text = page(
        look(
            things,
            found,
            anchors,
            [(b, draw.random(), 0) for b, _ in anchors],
            picture=noise((640, 480), 90),
        )
    )
    read = Reader(text)
    assert len(text) < 3e6
    for words in (
        "50 more objects are left out here.",
        "426 more objects are left out here.",
        "500 more candidates, of lower scores, are left out here.",
    ):
        assert words in read, words
    assert sum(tag == "rect" for tag, _ in read.tags) < 5000


def test_it_prints_light_and_looks_dark_on_a_dark_screen(full: str) -> None:
    dark = re.findall(r"@media ([^{]*prefers-color-scheme: dark[^{]*)", full)
    assert dark and all("screen" in query for query in dark)


def test_score_maps_lie_where_the_anchors_are() -> None:
    """Of the only anchor, at the centre of a stride of 100: the map covers the whole picture."""
    text = page(look(None, anchors=[(HERE, -2)]))
    (size, *_) = re.findall(r'<image (x="[^"]*" y="[^"]*" width="[^"]*" height="[^"]*")', text)
    assert size == 'x="0.00" y="0.00" width="100.00" height="100.00"'


def test_levels_have_the_models_names() -> None:
    assert "P3, stride 100" in Reader(page(look(None)))
    assert "P2, stride 100" in Reader(page(look(None, finest_level=2)))


def test_heat_rises_with_the_score() -> None:
    uri = heat(torch.tensor([[0.0, 0.25, 0.5], [0.1, 0.05, 0.0]]), 0.5)
    with Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))) as file:
        pixels = file.convert("RGBA")
    assert pixels.size == (3, 2)
    none, some, most = (pixels.getpixel((x, 0)) for x in range(3))
    assert none[3] == 0 < some[3] < most[3] and some[1] < most[1]


def test_windows_stay_in_the_picture() -> None:
    for box in ([0, 0, 10, 20], [90, 70, 100, 80], [40, 30, 50, 32], [0, 0, 100, 80]):
        x1, y1, x2, y2 = around(torch.tensor(box, dtype=torch.float32), (100, 80))
        assert x1 <= box[0] and y1 <= box[1] and x2 >= box[2] and y2 >= box[3]
        assert x2 - x1 == pytest.approx(y2 - y1)
        if x2 - x1 <= 80:
            assert x1 >= 0 and y1 >= 0 and x2 <= 100 + 1e-4 and y2 <= 80 + 1e-4


def test_a_chart_has_its_lines() -> None:
    text = chart([Line("a < b", 1, [0.0, 0.5, 1.0]), Line("c", 2, [1.0, 1.0], True)], "x", "y")
    read = Reader(text)
    lines = [attributes for tag, attributes in read.tags if tag == "polyline"]
    assert lines[0]["points"] == "44.0,210.0 196.0,111.0 348.0,12.0"
    assert "stroke-dasharray" in lines[1] and "stroke-dasharray" not in lines[0]
    assert "a < b" in read
