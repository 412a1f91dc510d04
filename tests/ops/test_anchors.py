"""Anchor grids: four detectors' conventions, and the tensor made from them."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from focaldet import reference
from focaldet.ops import AnchorGrid, Anchors, generate_anchors

# The five levels of images of 800 x 1344 (13 rows on P6: 800 // 13 = 61), of a small one, of an odd
# one, and of one whose P7 is a single cell.
PYRAMIDS = {
    (800, 1344): [(100, 168), (50, 84), (25, 42), (13, 21), (7, 11)],
    (128, 160): [(16, 20), (8, 10), (4, 5), (2, 3), (1, 2)],
    (333, 500): [(42, 63), (21, 32), (11, 16), (6, 8), (3, 4)],
    (64, 64): [(8, 8), (4, 4), (2, 2), (1, 1), (1, 1)],
}
CONVENTIONS = {
    "paper": AnchorGrid.paper(),
    "torchvision": AnchorGrid.torchvision(),
    "detectron2": AnchorGrid.detectron2(),
    "mmdetection": AnchorGrid.mmdetection(),
}


def center_and_size(boxes: Tensor) -> Tensor:  # [n, 4] -> [n, 4]: x, y, width, height
    return torch.cat([(boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]], dim=1)


@pytest.mark.parametrize("image", PYRAMIDS)
def test_torchvision_bit_for_bit(image: tuple[int, int], device: torch.device) -> None:
    pytest.importorskip("torchvision")
    from torchvision.models.detection.image_list import ImageList
    from torchvision.models.detection.retinanet import _default_anchorgen

    sizes = PYRAMIDS[image]
    images = ImageList(torch.empty(1, 3, *image, device=device), [image])
    maps = [torch.empty(1, 1, *size, device=device) for size in sizes]
    theirs = _default_anchorgen()(images, maps)[0]
    ours = generate_anchors(AnchorGrid.torchvision().at(sizes, image), device)
    assert torch.equal(ours, theirs)


def test_torchvision_strides_come_from_the_image() -> None:
    anchors = AnchorGrid.torchvision().at(PYRAMIDS[800, 1344], (800, 1344))
    assert anchors.strides == ((8, 8), (16, 16), (32, 32), (61, 64), (114, 122))


@pytest.mark.parametrize("convention", CONVENTIONS)
@pytest.mark.parametrize("image", PYRAMIDS)
def test_reference(convention: str, image: tuple[int, int], device: torch.device) -> None:
    anchors = CONVENTIONS[convention].at(PYRAMIDS[image], image)
    table = generate_anchors(anchors, device)
    assert table.dtype == torch.float32 and table.shape == (len(anchors), 4)
    assert torch.equal(table.cpu(), reference.generate_anchors(anchors))
    by_level = torch.cat([generate_anchors(level, device) for level in anchors.levels()])
    assert torch.equal(by_level, table)


# First cell of P3, [width, height] of its nine anchors, worked out by hand from each definition:
# area (32 * 2^(i/3))^2 and height / width in 1/2, 1, 2; so at i = 0 the first is 32 sqrt(2) wide
# and 32 / sqrt(2) high.
def sizes_by_scale_then_ratio() -> list[tuple[float, float]]:
    return [
        (45.254834, 22.627417), (32.0, 32.0), (22.627417, 45.254834),
        (57.017518, 28.508759), (40.317474, 40.317474), (28.508759, 57.017518),
        (71.837571, 35.918786), (50.796834, 50.796834), (35.918786, 71.837571),
    ]  # fmt: skip


def test_paper_numbers() -> None:
    table = generate_anchors(CONVENTIONS["paper"].at(PYRAMIDS[128, 160], (128, 160)))
    boxes = center_and_size(table)
    torch.testing.assert_close(boxes[:9, :2], torch.full((9, 2), 4.0))  # the middle of 8 x 8
    torch.testing.assert_close(boxes[:9, 2:], torch.tensor(sizes_by_scale_then_ratio()))
    areas = (boxes[:, 2] * boxes[:, 3]).sqrt()
    assert math.isclose(areas.min(), 32, rel_tol=1e-5)
    assert math.isclose(areas.max(), 512 * 2 ** (2 / 3), rel_tol=1e-5)
    torch.testing.assert_close(boxes[9, :2], torch.tensor([12.0, 4.0]))  # x before y
    torch.testing.assert_close(boxes[9 * 20, :2], torch.tensor([4.0, 12.0]))


def test_detectron2_numbers() -> None:
    sizes = PYRAMIDS[128, 160]
    grid = CONVENTIONS["detectron2"]
    boxes = center_and_size(generate_anchors(grid.at(sizes, (128, 160))))
    torch.testing.assert_close(boxes[:9, :2], torch.zeros(9, 2))
    torch.testing.assert_close(boxes[:9, 2:], torch.tensor(sizes_by_scale_then_ratio()))
    torch.testing.assert_close(boxes[9, :2], torch.tensor([8.0, 0.0]))
    shifted = AnchorGrid.detectron2(offset=0.5)
    assert generate_anchors(shifted.at(sizes, (128, 160))).equal(
        generate_anchors(CONVENTIONS["paper"].at(sizes, (128, 160)))
    )


def test_mmdetection_numbers() -> None:
    boxes = center_and_size(
        generate_anchors(CONVENTIONS["mmdetection"].at(PYRAMIDS[128, 160], (128, 160)))
    )
    torch.testing.assert_close(boxes[:9, :2], torch.zeros(9, 2))
    by_ratio = torch.tensor(sizes_by_scale_then_ratio()).view(3, 3, 2).transpose(0, 1)
    torch.testing.assert_close(boxes[:9, 2:], by_ratio.reshape(9, 2))


def test_torchvision_numbers() -> None:
    grid = CONVENTIONS["torchvision"]
    assert grid.cell_anchors[0] == (
        (-23, -11, 23, 11), (-28, -14, 28, 14), (-35, -18, 35, 18),
        (-16, -16, 16, 16), (-20, -20, 20, 20), (-25, -25, 25, 25),
        (-11, -23, 11, 23), (-14, -28, 14, 28), (-18, -35, 18, 35),
    )  # fmt: skip


def test_own_sizes_strides_and_offset(device: torch.device) -> None:
    cells = (((-4.0, -2.0, 4.0, 2.0),), ((-8.0, -8.0, 8.0, 8.0),))
    grid = AnchorGrid(cells, (4, 10), 0.25)
    anchors = grid.at([(1, 2), (2, 1)], (0, 0))
    assert grid.per_position == anchors.per_position == 1 and len(anchors) == 4
    assert generate_anchors(anchors, device).tolist() == [
        [-3.0, -1.0, 5.0, 3.0],
        [1.0, -1.0, 9.0, 3.0],
        [-5.5, -5.5, 10.5, 10.5],
        [-5.5, 4.5, 10.5, 20.5],
    ]
    small = AnchorGrid.torchvision(sizes=(8, 16), aspect_ratios=(1.0,))
    assert small.per_position == 3 and len(small.cell_anchors) == 2


def test_no_positions(device: torch.device) -> None:
    for sizes in ([(0, 0)] * 5, [(0, 3), (2, 0), (0, 0), (1, 1), (0, 1)]):
        for grid in CONVENTIONS.values():
            anchors = grid.at(sizes, (32, 32))
            assert torch.equal(
                generate_anchors(anchors, device).cpu(), reference.generate_anchors(anchors)
            )


def test_grids_are_values() -> None:
    assert AnchorGrid.paper() == AnchorGrid.paper() != AnchorGrid.detectron2()
    assert hash(AnchorGrid.paper()) == hash(AnchorGrid.paper())
    with pytest.raises(AttributeError):
        AnchorGrid.paper().offset = 1.0  # type: ignore[misc]


def test_any_number_of_threads() -> None:
    anchors = CONVENTIONS["paper"].at(PYRAMIDS[800, 1344], (800, 1344))
    torch.set_num_threads(1)
    one = generate_anchors(anchors)
    torch.set_num_threads(5)
    assert torch.equal(generate_anchors(anchors), one)


@pytest.mark.parametrize("dynamic", [False, True])
def test_compile(dynamic: bool, device: torch.device) -> None:
    """Feature sizes may be symbols: one graph for images of any size."""
    grid = AnchorGrid.torchvision(sizes=(32, 64))

    def table(image: Tensor, features: list[Tensor]) -> Tensor:
        sizes = [(f.shape[2], f.shape[3]) for f in features]
        return generate_anchors(grid.at(sizes, (image.shape[2], image.shape[3])), image.device)

    torch._dynamo.reset()
    compiled = torch.compile(table, fullgraph=True, dynamic=dynamic, backend="aot_eager")
    for image in [(128, 160), (333, 500)] if dynamic else [(128, 160)]:
        arguments = (
            torch.empty(1, 3, *image, device=device),
            [torch.empty(1, 1, *size, device=device) for size in PYRAMIDS[image][:2]],
        )
        assert torch.equal(compiled(*arguments), table(*arguments))


LEVEL_3 = {
    "paper": AnchorGrid.paper(sizes=(32,), strides=(8,)),
    "torchvision": AnchorGrid.torchvision(sizes=(32,)),
}


@pytest.mark.parametrize("convention", LEVEL_3)
def test_export_with_any_height_and_width(convention: str, device: torch.device) -> None:
    class Table(torch.nn.Module):
        grid = LEVEL_3[convention]

        def forward(self, image: Tensor, feature: Tensor) -> Tensor:
            anchors = self.grid.at([tuple(feature.shape[2:])], tuple(image.shape[2:]))
            return generate_anchors(anchors, image.device)

    def example(height: int, width: int) -> tuple[Tensor, Tensor]:
        image = torch.empty(1, 3, 8 * height, 8 * width, device=device)
        return image, torch.empty(1, 1, height, width, device=device)

    sizes = [
        {2: torch.export.Dim(f"h{i}", min=2), 3: torch.export.Dim(f"w{i}", min=2)} for i in "ab"
    ]
    program = torch.export.export(Table(), example(8, 12), dynamic_shapes=tuple(sizes)).module()
    for size in ((5, 3), (20, 31)):
        assert torch.equal(program(*example(*size)), Table()(*example(*size)))


def test_anchors_reach_the_last_cell_of_a_large_map(device: torch.device) -> None:
    anchors = Anchors((((-1.0, -1.0, 1.0, 1.0),),), ((3, 70001),), ((2, 3),), 0.0)
    table = generate_anchors(anchors, device).cpu()
    assert table[-1].tolist() == [209999.0, 3.0, 210001.0, 5.0]
    assert torch.equal(table, reference.generate_anchors(anchors))
