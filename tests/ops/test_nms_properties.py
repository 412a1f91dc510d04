"""What holds for non-maximum suppression of any boxes; and what torch's compiler makes of it."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from focaldet import reference
from focaldet.ops import batched_nms, box_iou, nms, nms_padded

# Small whole coordinates and few scores: overlaps that equal a threshold, ties and degenerate boxes
# are common, and every IoU is exact enough to be argued about.
coordinate = st.integers(-3, 12)
box = st.tuples(coordinate, coordinate, coordinate, coordinate)
candidates = st.lists(st.tuples(box, st.integers(0, 5), st.integers(-1, 2)), max_size=40)
threshold = st.sampled_from([0.0, 0.1, 0.25, 1 / 3, 0.5, 0.7, 1.0])


def tensors(rows: list[tuple], device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """boxes, scores, groups"""
    boxes = torch.tensor([row[0] for row in rows], dtype=torch.float32, device=device).view(-1, 4)
    scores = torch.tensor([row[1] for row in rows], dtype=torch.float32, device=device)
    return boxes, scores, torch.tensor([row[2] for row in rows], dtype=torch.int64, device=device)


def overlaps(boxes: Tensor, groups: Tensor, iou_threshold: float) -> Tensor:
    """[n, n]: would one suppress the other?"""
    iou = box_iou(boxes, boxes)
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    # inter / union > t >= 0 needs inter > 0; with it, the union's sign is the quotient's.
    positive = torch.isfinite(iou) & (area[:, None] + area > 0)
    return positive & (iou > iou_threshold) & (groups[:, None] == groups)


@given(candidates, threshold)
def test_the_reference_agrees(
    device: torch.device, rows: list[tuple], iou_threshold: float
) -> None:
    boxes, scores, groups = tensors(rows, device)
    want = reference.batched_nms(boxes, scores, groups, iou_threshold)
    assert torch.equal(batched_nms(boxes, scores, groups, iou_threshold), want)


@given(candidates, threshold)
def test_greedy_maximal_independent_set(
    device: torch.device, rows: list[tuple], iou_threshold: float
) -> None:
    boxes, scores, groups = tensors(rows, device)
    keep = batched_nms(boxes, scores, groups, iou_threshold).tolist()
    clash = overlaps(boxes, groups, iou_threshold)
    rank = {row: (-scores[row].item(), row) for row in range(len(rows))}
    assert keep == sorted(set(keep), key=rank.__getitem__), "not by falling score, then row"
    for i in keep:
        assert not any(clash[i, j] for j in keep if j != i), "two kept boxes overlap"
    for i in set(range(len(rows))) - set(keep):
        better = [j for j in keep if rank[j] < rank[i]]
        assert any(clash[j, i] for j in better), "dropped, but no better kept box overlaps it"


@given(candidates, threshold, st.randoms(use_true_random=False))
def test_permuting_the_input_permutes_the_output(
    device: torch.device, rows, iou_threshold, random
) -> None:
    boxes, _, groups = tensors(rows, device)
    scores = torch.arange(len(rows), dtype=torch.float32, device=device)  # no ties: those go by row
    keep = batched_nms(boxes, scores, groups, iou_threshold)
    order = list(range(len(rows)))
    random.shuffle(order)
    order = torch.tensor(order, dtype=torch.int64, device=device)
    permuted = batched_nms(boxes[order], scores[order], groups[order], iou_threshold)
    assert torch.equal(order[permuted], keep)


@given(candidates, threshold, st.integers(-1, 6))
def test_a_far_box_changes_nothing(device: torch.device, rows, iou_threshold, score) -> None:
    boxes, scores, groups = tensors(rows, device)
    keep = batched_nms(boxes, scores, groups, iou_threshold)
    far = torch.tensor([[1000.0, 1000, 1010, 1010]], device=device)
    more = batched_nms(
        torch.cat([boxes, far]),
        torch.cat([scores, torch.tensor([float(score)], device=device)]),
        torch.cat([groups, torch.tensor([0], device=device)]),
        iou_threshold,
    )
    assert len(rows) in more.tolist()
    assert torch.equal(more[more != len(rows)], keep)


@given(candidates, threshold)
def test_groups_are_independent(
    device: torch.device, rows: list[tuple], iou_threshold: float
) -> None:
    boxes, scores, groups = tensors(rows, device)
    keep = batched_nms(boxes, scores, groups, iou_threshold)
    for group in groups.unique():
        members = (groups == group).nonzero().flatten()
        alone = members[nms(boxes[members], scores[members], iou_threshold)]
        assert torch.equal(keep[groups[keep] == group], alone)


@given(st.lists(candidates, max_size=3), threshold, st.integers(-1, 5), st.integers(0, 12))
def test_padded_rows_are_prefixes(
    device: torch.device, batch, iou_threshold, score_threshold, max_detections
) -> None:
    longest = max(map(len, batch), default=0)
    filler = ((0, 0, 0, 0), -9, 0)  # below every score threshold
    padded = [tensors(rows + [filler] * (longest - len(rows)), device) for rows in batch]
    shapes = (len(batch), longest, 4), (len(batch), longest), (len(batch), longest)
    dtypes = torch.float32, torch.float32, torch.int64
    columns = [
        torch.stack(column) if batch else torch.empty(shape, dtype=dtype, device=device)
        for column, shape, dtype in zip(
            zip(*padded, strict=True) if batch else [()] * 3, shapes, dtypes, strict=True
        )
    ]
    idx, count = nms_padded(*columns, iou_threshold, score_threshold, max_detections)
    for image, rows in enumerate(batch):
        boxes, scores, groups = tensors(rows, device)
        above = (scores > score_threshold).nonzero().flatten()
        keep = above[batched_nms(boxes[above], scores[above], groups[above], iou_threshold)]
        keep = keep[:max_detections].tolist()
        assert count[image] == len(keep)
        assert idx[image].tolist() == keep + [-1] * (max_detections - len(keep))


def example(n: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    corner = torch.rand(n, 2, device=device) * 50
    boxes = torch.cat([corner, corner + 20], dim=1)
    return boxes, torch.rand(n, device=device), torch.randint(0, 3, (n,), device=device)


def test_compile_padded(device: torch.device) -> None:
    torch._dynamo.reset()
    compiled = torch.compile(nms_padded, fullgraph=True, dynamic=True, backend="aot_eager")
    for n in (8, 12):
        boxes, scores, groups = example(n, device)
        batch = boxes.view(2, -1, 4), scores.view(2, -1), groups.view(2, -1)
        got, want = compiled(*batch, 0.5, 0.1, n), nms_padded(*batch, 0.5, 0.1, n)
        assert torch.equal(got[0], want[0]) and torch.equal(got[1], want[1])


def test_compile_with_an_output_of_unknown_length(device: torch.device) -> None:
    def best(boxes: Tensor, scores: Tensor, groups: Tensor) -> Tensor:
        return boxes[nms(boxes, scores, 0.5)].sum() + batched_nms(boxes, scores, groups, 0.5).sum()

    torch._dynamo.reset()
    with torch._dynamo.config.patch(capture_dynamic_output_shape_ops=True):
        compiled = torch.compile(best, fullgraph=True, backend="aot_eager")
        for n in (6, 9, 30):
            arguments = example(n, device)
            torch.testing.assert_close(compiled(*arguments), best(*arguments))


def test_export_with_any_number_of_boxes(device: torch.device) -> None:
    class Suppress(torch.nn.Module):
        def forward(self, boxes: Tensor, scores: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
            return nms_padded(boxes, scores, labels, 0.5, 0.1, 5)

    n = torch.export.Dim("n", min=2)
    batch = tuple(value[None] for value in example(9, device))
    program = torch.export.export(Suppress(), batch, dynamic_shapes=({1: n}, {1: n}, {1: n}))
    for count in (2, 30):
        batch = tuple(value[None] for value in example(count, device))
        got, want = program.module()(*batch), Suppress()(*batch)
        assert torch.equal(got[0], want[0]) and torch.equal(got[1], want[1])
