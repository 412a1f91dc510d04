from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from focaldet.data import (
    Compose,
    HorizontalFlip,
    RandomCrop,
    RandomResize,
    Resize,
    ToTensor,
    VerticalFlip,
    eval_transform,
    train_transform,
)
from focaldet.data.transforms import described, seeded_generator, settles_size

ANY = torch.Generator()  # for transforms that draw nothing, or whose outcome is certain
NO_BOXES = torch.zeros(0, 4)

sides = st.integers(1, 100)
unhurried = settings(deadline=None)  # a busy machine is no failure


def picture(width: int, height: int) -> Image.Image:
    pixels = np.random.default_rng(width * 1000 + height).integers(0, 256, (height, width, 3))
    return Image.fromarray(pixels.astype(np.uint8))


@pytest.mark.parametrize(
    "size, limits, expected",
    [
        ((640, 480), (320, 320), (320, 240)),
        ((480, 640), (320, 320), (240, 320)),
        ((640, 480), (800, 1333), (1067, 800)),
        ((1000, 200), (800, 1333), (1333, 267)),
        ((100, 50), (200, 200), (200, 100)),
        ((400, 1), (40, 40), (40, 1)),
    ],
)
def test_resize_follows_the_rule(
    size: tuple[int, int], limits: tuple[int, int], expected: tuple[int, int]
) -> None:
    image, _ = Resize(*limits)(picture(*size), NO_BOXES, ANY)
    assert image.size == expected


@unhurried
@given(sides, sides, st.integers(1, 200), st.integers(0, 200))
def test_resize_respects_its_limits_and_does_nothing_twice(
    width: int, height: int, low: int, more: int
) -> None:
    resize = Resize(low, low + more)
    image, boxes = resize(picture(width, height), torch.tensor([[0.0, 0, width, height]]), ANY)
    assert max(image.size) <= low + more
    assert min(image.size) <= low
    assert min(image.size) == low or max(image.size) == low + more
    assert boxes[0].tolist() == pytest.approx([0, 0, *image.size], rel=1e-6)
    again, same = resize(image, boxes, ANY)
    assert again is image and same is boxes


def test_resize_does_not_alias() -> None:
    """A fine checkerboard becomes grey; picking pixels would keep it black or white."""
    board = (np.indices((64, 64)).sum(0) % 2 * 255).astype(np.uint8)
    image, _ = Resize(8, 8)(Image.fromarray(board).convert("RGB"), NO_BOXES, ANY)
    assert abs(np.asarray(image).astype(int) - 128).max() < 10


@pytest.mark.parametrize("flip", [HorizontalFlip, VerticalFlip])
@unhurried
@given(
    width=sides, height=sides, corners=st.lists(st.floats(0, 1, width=32), min_size=4, max_size=4)
)
def test_a_flip_is_its_own_inverse(flip: Any, width: int, height: int, corners: list) -> None:
    x1, x2 = sorted(corners[:2])
    y1, y2 = sorted(corners[2:])
    boxes = torch.tensor([[x1, y1, x2, y2]]) * torch.tensor([width, height]).repeat(2)
    image = picture(width, height)
    once, flipped = flip(1.0)(image, boxes, ANY)
    assert (flipped[:, 2:] >= flipped[:, :2]).all() and (flipped >= 0).all()
    twice, back = flip(1.0)(once, flipped, ANY)
    assert np.array_equal(np.asarray(twice), np.asarray(image))
    torch.testing.assert_close(back, boxes, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    "flip, moved", [(HorizontalFlip, (6, 2, 9, 4)), (VerticalFlip, (1, 2, 4, 4))]
)
def test_boxes_stay_on_their_pixels(flip: Any, moved: tuple[int, ...]) -> None:
    pixels = np.zeros((6, 10, 3), np.uint8)
    pixels[2:4, 1:4] = 255
    image, boxes = flip(1.0)(Image.fromarray(pixels), torch.tensor([[1.0, 2, 4, 4]]), ANY)
    assert tuple(boxes[0].tolist()) == moved
    x1, y1, x2, y2 = moved
    bright = np.asarray(image)[..., 0] == 255
    assert bright[y1:y2, x1:x2].all() and bright.sum() == 6


def test_flip_probability() -> None:
    generator = torch.Generator().manual_seed(0)
    image = picture(3, 2)
    for p, low, high in [(0.0, 0, 0), (0.3, 240, 360), (1.0, 1000, 1000)]:
        flip = HorizontalFlip(p)
        count = sum(flip(image, NO_BOXES, generator)[0] is not image for _ in range(1000))
        assert low <= count <= high, f"p = {p}: {count} of 1000"


def test_to_tensor_is_exact_and_contiguous() -> None:
    image, boxes = ToTensor()(picture(5, 4), NO_BOXES, ANY)
    assert image.dtype == torch.float32 and image.is_contiguous()
    expected = torch.from_numpy(np.asarray(picture(5, 4)).copy()).permute(2, 0, 1) / 255
    assert torch.equal(image, expected)
    assert boxes is NO_BOXES


def test_helpers_bring_the_longest_side_to_size() -> None:
    for transform in (train_transform(64), eval_transform(64)):
        image, _ = transform(picture(100, 50), NO_BOXES, ANY)
        assert image.shape == (3, 32, 64)


def test_evaluation_may_limit_the_shortest_side() -> None:
    """As detectors trained at 800 x 1333 do."""
    for size, expected in (
        ((100, 50), (3, 32, 64)),
        ((60, 50), (3, 40, 48)),
        ((20, 20), (3, 40, 40)),
    ):
        assert eval_transform(64, 40)(picture(*size), NO_BOXES, ANY)[0].shape == expected
    assert eval_transform(64, 64)(picture(60, 50), NO_BOXES, ANY)[0].shape == (3, 53, 64)


def test_training_depends_on_the_generator_alone() -> None:
    transform = train_transform(32, horizontal_flip=0.5, vertical_flip=0.5)

    def run(seed: int) -> torch.Tensor:
        return transform(picture(20, 30), NO_BOXES, seeded_generator(seed))[0]

    results = [run(seed) for seed in range(20)]
    assert all(torch.equal(run(seed), result) for seed, result in enumerate(results))
    distinct = {result.numpy().tobytes() for result in results}
    assert len(distinct) == 4, "both flips, independently"


def test_evaluation_draws_nothing() -> None:
    generator = torch.Generator().manual_seed(3)
    before = generator.get_state()
    eval_transform(32)(picture(20, 30), NO_BOXES, generator)
    assert torch.equal(generator.get_state(), before)


def test_seeded_generators_differ_by_every_part_of_the_key() -> None:
    keys = [
        (0,),
        (1,),
        (0, 0),
        (0, 1),
        (1, 0),
        (0, 0, 0),
        (0, 0, 1),
        (0, 1, 0),
        (1, 0, 0),
        (0, 1, 1),
    ]
    firsts = {key: torch.rand((), generator=seeded_generator(*key)).item() for key in keys}
    assert len(set(firsts.values())) == len(keys)
    assert firsts[0, 1, 0] == torch.rand((), generator=seeded_generator(0, 1, 0)).item()


def test_compose_applies_in_order() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10]])
    _, result = Compose([Resize(5, 10), HorizontalFlip(1.0)])(picture(20, 20), boxes, ANY)
    assert result.tolist() == [[2.5, 0, 5, 2.5]]


def test_wrong_arguments_are_refused() -> None:
    for limits in [(0, 5), (6, 5), (-1, -1)]:
        with pytest.raises(ValueError, match="min_size <= max_size"):
            Resize(*limits)
    for p in (-0.1, 1.1, float("nan")):
        for flip in (HorizontalFlip, VerticalFlip):
            with pytest.raises(ValueError, match="probability"):
                flip(p)


# Sizes and windows that are drawn ---------------------------------------------------------------


def painted(width: int, height: int, box: tuple[int, int, int, int]) -> Image.Image:
    """Black but for the box."""
    pixels = np.zeros((height, width, 3), np.uint8)
    x1, y1, x2, y2 = box
    pixels[y1:y2, x1:x2] = 255
    return Image.fromarray(pixels)


def found(image: Image.Image) -> list[int]:
    """Where it is not black."""
    ys, xs = np.nonzero(np.asarray(image)[..., 0] > 127)
    return [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1] if len(xs) else []


@pytest.mark.parametrize("size", [16, 30, 100])
def test_boxes_go_with_the_window(size: int) -> None:
    """Whatever part of the box is in it: what is left of the box is what is left of its pixels."""
    box, crop, seen = (12, 20, 30, 44), RandomCrop(size, least=0.0), set()
    for seed in range(60):
        boxes = torch.tensor([box], dtype=torch.float32)
        image, boxes = crop(painted(60, 50, box), boxes, seeded_generator(seed))
        assert image.size == (min(size, 60), min(size, 50))
        x1, y1, x2, y2 = boxes[0].tolist()
        kept = x2 > x1 and y2 > y1
        assert found(image) == ([x1, y1, x2, y2] if kept else [])
        seen.add((kept, (x2 - x1, y2 - y1) == (18, 24)))
    expected = {16: {(True, False), (False, False)}, 100: {(True, True)}}
    assert seen == expected.get(size, {(True, False), (True, True), (False, False)})


def test_a_window_drops_what_is_hardly_in_it() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10], [7, 0, 17, 10], [8, 0, 18, 10], [30, 0, 40, 10]])
    for least, kept in ((0.0, [0, 1, 2]), (0.25, [0, 1]), (0.31, [0]), (1.0, [0])):
        _, cut = RandomCrop(10, least)(picture(10, 10), boxes, ANY)
        assert (cut[:, 2:] > cut[:, :2]).all(1).nonzero().flatten().tolist() == kept, least


def test_what_is_drawn_depends_on_the_generator_alone() -> None:
    sizes = RandomResize([Resize(size, 80) for size in (20, 30, 40)])
    for transform, distinct in ((sizes, 3), (RandomCrop(8), 60)):

        def drawn(seed: int, transform: Any = transform) -> bytes:
            image, _ = transform(picture(24, 30), NO_BOXES, seeded_generator(seed))
            return bytes(str(image.size), "ascii") + image.tobytes()

        results = [drawn(seed) for seed in range(120)]
        assert results == [drawn(seed) for seed in range(120)]
        assert len(set(results)) >= distinct


def test_every_choice_of_sizes_is_drawn_and_scales_the_boxes() -> None:
    transform = RandomResize([Resize(20, 80), Resize(40, 50), Resize(40, 80, max_scale=1.0)])
    boxes, seen = torch.tensor([[4.0, 5, 8, 20]]), {}
    for seed in range(40):
        image, moved = transform(picture(24, 30), boxes, seeded_generator(seed))
        seen[image.size] = moved
    assert set(seen) == {(20, 25), (40, 50), (24, 30)}
    for (width, height), moved in seen.items():
        ratio = torch.tensor([width / 24, height / 30]).repeat(2)
        torch.testing.assert_close(moved, boxes * ratio)


@pytest.mark.parametrize(
    ("size", "most", "expected"),
    [
        ((40, 30), 2.0, (80, 60)),  # as far as it may
        ((90, 60), 2.0, (120, 80)),  # as far as the sizes go
        ((300, 200), 2.0, (120, 80)),  # made smaller
        ((40, 30), 1.0, (40, 30)),
        ((40, 30), None, (107, 80)),
    ],
)
def test_a_limit_to_enlarging(size: tuple, most: float | None, expected: tuple) -> None:
    image, _ = Resize(80, 120, most)(picture(*size), NO_BOXES, ANY)
    assert image.size == expected
    assert eval_transform(120, 80, most)(picture(*size), NO_BOXES, ANY)[0].shape[1:] == (
        expected[1],
        expected[0],
    )


def test_descriptions_tell_all_settings_apart() -> None:
    """Runs are only resumed with the same; and those of before are described as they were."""
    assert described(train_transform(64)) == (
        "Resize(min_size=64, max_size=64), HorizontalFlip(p=0.5), VerticalFlip(p=0.0), ToTensor()"
    )
    transforms = [
        Resize(8, 9),
        Resize(8, 10),
        Resize(8, 9, 2.0),
        Resize(8, 9, 3.0),
        RandomResize([Resize(8, 9)]),
        RandomResize([Resize(8, 9), Resize(8, 10)]),
        RandomResize([Resize(8, 9), Resize(8, 9, 2.0)]),
        RandomCrop(8),
        RandomCrop(9),
        RandomCrop(8, 0.5),
        Compose([Resize(8, 9), RandomCrop(8)]),
    ]
    texts = [described(transform) for transform in transforms]
    assert len(set(texts)) == len(texts) and not any("object at" in text for text in texts)


def test_who_settles_the_size() -> None:
    for transform, expected in (
        (train_transform(64), False),
        (eval_transform(64, 48), False),
        (eval_transform(64, 48, 2.0), True),
        (RandomResize([Resize(8, 9)]), True),
        (Compose([Resize(8, 9), Compose([RandomCrop(8)])]), True),
        (lambda image, boxes, generator: (image, boxes), False),
    ):
        assert settles_size(transform) is expected


def test_sizes_and_windows_that_make_no_sense() -> None:
    for make, message in (
        (lambda: RandomResize([]), "at least one size"),
        (lambda: RandomCrop(0), "at least 1 pixel"),
        (lambda: RandomCrop(8, 1.5), "probability"),
        (lambda: Resize(8, 9, 0.0), "max_scale: expected a number above 0"),
        (lambda: Resize(8, 9, float("nan")), "max_scale: expected a number above 0"),
    ):
        with pytest.raises(ValueError, match=message):
            make()
