"""The list-of-images side: sizes, padding, scales, and what it refuses."""

import pytest
import torch

from focaldet.models.transform import Transform

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@pytest.mark.parametrize("min_size, max_size", [(800, 1333), (320, 320), (128, 213)])
def test_pixels_and_boxes_are_torchvisions(min_size, max_size):
    detection = pytest.importorskip("torchvision").models.detection
    theirs = detection.transform.GeneralizedRCNNTransform(min_size, max_size, MEAN, STD)
    ours = Transform(min_size, max_size, MEAN, STD)
    torch.manual_seed(0)
    sizes = [(31, 47), (64, 64), (97, 33), (128, 150), (213, 128), (100, 171)]
    images = [torch.rand(3, h, w) for h, w in sizes]
    targets = []
    for h, w in sizes:
        corners = torch.rand(3, 2, 2).sort(dim=1).values * torch.tensor([w, h])
        targets.append({"boxes": corners.flatten(1), "labels": torch.tensor([0, 1, 2])})
    want, want_targets = theirs(images, targets)
    batch, got_sizes, scales = ours.images(images)
    assert got_sizes.tolist() == [list(size) for size in want.image_sizes]
    torch.testing.assert_close(batch, want.tensors)
    boxes, labels, splits = ours.targets(targets, scales, num_classes=3)
    torch.testing.assert_close(boxes, torch.cat([t["boxes"] for t in want_targets]))
    assert labels.tolist() == [0, 1, 2] * len(sizes)
    assert splits.tolist() == list(range(0, 3 * len(sizes) + 1, 3))


def test_an_image_of_the_right_size_keeps_its_pixels():
    image = torch.rand(3, 64, 80)
    batch, sizes, scales = Transform(64, 100, (0, 0, 0), (1, 1, 1)).images([image])
    assert batch.shape == (1, 3, 64, 96) and sizes.tolist() == [[64, 80]]
    assert torch.equal(batch[0, :, :, :80], image) and not batch[..., 80:].any()
    assert torch.equal(scales, torch.ones(1, 4))


def test_a_sliver_keeps_a_pixel():
    batch, sizes, _ = Transform(32, 32, MEAN, STD).images([torch.rand(3, 1, 500)])
    assert sizes.tolist() == [[1, 32]] and batch.isfinite().all()


def test_images_take_the_dtype_of_the_model():
    transform = Transform(32, 64, MEAN, STD).double()
    assert transform.images([torch.rand(3, 32, 32)]).batch.dtype == torch.float64
    assert not transform.state_dict()


def test_images_without_boxes_have_no_rows():
    transform = Transform(32, 64, MEAN, STD)
    _, _, scales = transform.images([torch.rand(3, 32, 32)] * 3)
    none = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
    one = {"boxes": torch.tensor([[1.0, 2, 3, 4]]), "labels": torch.tensor([1])}
    boxes, labels, splits = transform.targets([none, one, none], scales, num_classes=2)
    assert boxes.tolist() == [[1, 2, 3, 4]] and splits.tolist() == [0, 0, 1, 1]
    boxes, labels, splits = transform.targets([none, none, none], scales, num_classes=2)
    assert boxes.shape == (0, 4) and labels.shape == (0,) and splits.tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize(
    "images, message",
    [
        ([], "at least one"),
        (
            [torch.rand(3, 8, 8), torch.rand(1, 8, 8)],
            r"images\[1\]: .*got torch.float32 \[1, 8, 8\]",
        ),
        ([torch.rand(2, 3, 8, 8)], r"images\[0\]: .*\[2, 3, 8, 8\]"),
        ([torch.zeros(3, 8, 8, dtype=torch.uint8)], r"images\[0\]: .*floating.*got torch.uint8"),
        ([torch.rand(3, 0, 8)], r"images\[0\]: .*\[3, 0, 8\]"),
        (["photo.jpg"], r"images\[0\]: .*got str"),
    ],
)
def test_bad_images(images, message):
    with pytest.raises(ValueError, match=message):
        Transform(32, 64, MEAN, STD).images(images)


GOOD = [0.0, 0.0, 4.0, 4.0]


@pytest.mark.parametrize(
    "boxes, labels, message",
    [
        (
            [GOOD, [5, 1, 5, 2]],
            [0, 1],
            r"targets\[1\]\['boxes'\] row 1: .*x1 < x2.*\[5.0, 1.0, 5.0",
        ),
        ([[1, 5, 2, 2]], [0], r"targets\[1\]\['boxes'\] row 0: .*y1 < y2"),
        ([GOOD, GOOD, [0, 0, float("nan"), 1]], [0, 1, 1], r"targets\[1\]\['boxes'\] row 2: .*nan"),
        ([[0, 0, float("inf"), 1]], [0], r"row 0: expected finite"),
        ([GOOD, GOOD], [1, 3], r"targets\[1\]\['labels'\] row 1: .*\[0, 3\), got 3"),
        ([GOOD], [-1], r"targets\[1\]\['labels'\] row 0: .*got -1"),
        ([GOOD], [0, 1], r"targets\[1\]\['labels'\]: expected an int64 tensor \[1\], .*\[2\]"),
        ([GOOD], [0.0], r"targets\[1\]\['labels'\]: .*got torch.float32"),
        (GOOD, [0], r"targets\[1\]\['boxes'\]: .*got torch.float32 \[4\]"),
        ([], [], r"targets\[1\]\['boxes'\]: .*\[0\]"),
    ],
)
def test_bad_targets(boxes, labels, message):
    transform = Transform(32, 64, MEAN, STD)
    _, _, scales = transform.images([torch.rand(3, 32, 32)] * 2)
    good = {"boxes": torch.tensor([GOOD]), "labels": torch.tensor([2])}
    bad = {"boxes": torch.tensor(boxes, dtype=torch.float32), "labels": torch.tensor(labels)}
    with pytest.raises(ValueError, match=message):
        transform.targets([good, bad], scales, num_classes=3)


@pytest.mark.parametrize(
    "targets, message",
    [
        ([{"boxes": torch.zeros(0, 4)}], r"targets\[0\]: expected a dict with"),
        ([{"boxes": [GOOD], "labels": [0]}], r"targets\[0\]: expected a dict with tensors"),
        ([torch.zeros(0, 4)], r"targets\[0\]: expected a dict with"),
        ([], "expected one per image, 1, got 0"),
    ],
)
def test_bad_target_lists(targets, message):
    with pytest.raises(ValueError, match=message):
        Transform(32, 64, MEAN, STD).targets(targets, torch.ones(1, 4), num_classes=3)
