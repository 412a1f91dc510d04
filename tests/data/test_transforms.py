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
    Resize,
    ToTensor,
    VerticalFlip,
    eval_transform,
    train_transform,
)
from focaldet.data.transforms import seeded_generator

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
