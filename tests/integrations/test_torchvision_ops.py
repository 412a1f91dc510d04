"""patch_ops, and our operators where torchvision's are called: arguments, results and errors."""

import sys
import threading
import types

import pytest
import torch

pytest.importorskip("torchvision")
import torchvision  # noqa: E402
from torchvision.models.detection import fcos, retinanet  # noqa: E402
from torchvision.models.detection._utils import Matcher, SSDMatcher  # noqa: E402

from focaldet import ops  # noqa: E402
from focaldet.integrations.torchvision import _matching, _operators, patch_ops  # noqa: E402
from focaldet.integrations.torchvision._swap import Change, swap  # noqa: E402

THEIRS = dict(_operators.TORCHVISION)
OURS = _operators.OURS
PLACES = [
    (torchvision.ops, "nms"),
    (torchvision.ops, "batched_nms"),
    (torchvision.ops, "sigmoid_focal_loss"),
    (torchvision.ops.boxes, "nms"),
    (torchvision.ops.boxes, "batched_nms"),
    (sys.modules["torchvision.ops.focal_loss"], "sigmoid_focal_loss"),
    (retinanet, "sigmoid_focal_loss"),
    (fcos, "sigmoid_focal_loss"),
]


def in_place(functions):
    return all(getattr(module, name) is functions[name] for module, name in PLACES)


def some_boxes(n, dtype=torch.float32):
    corner = torch.rand(n, 2) * 100
    return torch.cat([corner, corner + 5 + torch.rand(n, 2) * 40], dim=1).to(dtype)


# The patch ---------------------------------------------------------------------------------------


def test_every_name_is_reached_and_put_back():
    assert in_place(THEIRS)
    with patch_ops():
        assert in_place(OURS)
        with patch_ops():
            assert in_place(OURS)
        assert in_place(OURS)
    assert in_place(THEIRS)


def test_an_exception_puts_back_too():
    with pytest.raises(KeyError), patch_ops(), patch_ops():
        raise KeyError
    assert in_place(THEIRS)


def test_it_decorates():
    @patch_ops()
    def inside():
        return in_place(OURS)

    assert inside() and inside() and in_place(THEIRS)


def test_modules_that_are_imported_within_are_put_back(monkeypatch):
    late = types.ModuleType("torchvision.late")
    with patch_ops():
        late.suppress = torchvision.ops.nms
        late.nms = torchvision.ops.nms
        monkeypatch.setitem(sys.modules, "torchvision.late", late)
    assert late.nms is THEIRS["nms"]


def test_a_module_whose_import_is_blocked(monkeypatch):
    """None in sys.modules, with which tests simulate that something is not installed."""
    monkeypatch.setitem(sys.modules, "torchvision.blocked", None)
    with patch_ops():
        assert in_place(OURS)
    assert in_place(THEIRS)


def test_it_holds_for_all_threads():
    seen = []
    with patch_ops():
        thread = threading.Thread(target=lambda: seen.append(in_place(OURS)))
        thread.start()
        thread.join()
    assert seen == [True]


def test_names_of_others_stay():
    other = types.ModuleType("not_torchvision")
    other.nms = torchvision.ops.nms
    sys.modules["not_torchvision"] = other
    try:
        with patch_ops():
            assert other.nms is THEIRS["nms"]
    finally:
        del sys.modules["not_torchvision"]


# Suppression -------------------------------------------------------------------------------------


def test_the_operators_are_ours(monkeypatch):
    """Else a test that compares results would compare torchvision with itself."""
    monkeypatch.setattr(_operators, "TORCHVISION", {})
    boxes, scores, groups = some_boxes(20), torch.rand(20), torch.arange(20) % 3
    assert len(_operators.nms(boxes, scores, 0.5))
    assert len(_operators.batched_nms(boxes=boxes, scores=scores, idxs=groups, iou_threshold=1))
    targets = torch.zeros(20, 3)
    _operators.sigmoid_focal_loss(torch.randn(20, 3), targets, alpha=-1, gamma=1, reduction="mean")


@pytest.mark.parametrize("n", [0, 1, 700, 1500])  # torchvision changes its way at 1000
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_suppression_keeps_the_same(n, dtype):
    boxes = (some_boxes(n, dtype) * 8).round() / 8  # shifting them is exact
    scores, groups = torch.rand(n, dtype=dtype), torch.randint(5, (n,))
    for iou in (0.0, 0.5, 1, 1.5, -0.5):
        assert torch.equal(_operators.nms(boxes, scores, iou), THEIRS["nms"](boxes, scores, iou))
        got, want = (f["batched_nms"](boxes, scores, groups, iou) for f in (OURS, THEIRS))
        assert torch.equal(got, want)


def test_suppression_of_half_types_on_the_cpu():
    boxes, scores = some_boxes(50), torch.rand(50)
    with pytest.raises(RuntimeError):
        THEIRS["nms"](boxes.half(), scores.half(), 0.5)
    got = _operators.nms(boxes.half(), scores.half(), 0.5)
    assert torch.equal(got, THEIRS["nms"](boxes.half().float(), scores.half().float(), 0.5))


def test_suppression_of_what_needs_a_gradient():
    boxes, scores = some_boxes(50).requires_grad_(), torch.rand(50, requires_grad=True)
    kept = _operators.nms(boxes, scores, 0.5)
    assert not kept.requires_grad
    boxes[kept].sum().backward()
    assert boxes.grad.sum() == 4 * len(kept)


def test_groups_that_are_floating_numbers_go_to_torchvision():
    boxes, scores = some_boxes(50), torch.rand(50)
    groups = (torch.arange(50) % 3).float()
    got, want = (f["batched_nms"](boxes, scores, groups, 0.3) for f in (OURS, THEIRS))
    assert torch.equal(got, want)


BAD = [
    ("nms", (torch.rand(3, 5), torch.rand(3), 0.5)),
    ("nms", (torch.rand(3, 4), torch.rand(2), 0.5)),
    ("nms", (torch.rand(4), torch.rand(1), 0.5)),
    ("nms", (torch.rand(3, 4), torch.rand(3, 1), 0.5)),
    ("nms", (torch.rand(3, 4), torch.rand(3), "0.5")),
    ("nms", ([[0, 0, 1, 1]], torch.rand(1), 0.5)),
    ("batched_nms", (torch.rand(3, 4), torch.rand(3), torch.zeros(2, dtype=torch.int64), 0.5)),
    ("batched_nms", (torch.rand(3, 4), torch.rand(3), None, 0.5)),
    ("sigmoid_focal_loss", (torch.rand(3, 4), torch.rand(3, 5))),
    ("sigmoid_focal_loss", (torch.rand(3, 4), torch.rand(3, 4), 2.0)),
    ("sigmoid_focal_loss", (torch.rand(3, 4), torch.rand(3, 4), 0.25, 2, "max")),
    ("sigmoid_focal_loss", (torch.rand(3, 4), torch.zeros(3, dtype=torch.int64))),
]


@pytest.mark.parametrize("name, arguments", BAD)
def test_bad_arguments_get_torchvisions_error(name, arguments):
    with pytest.raises(Exception) as want:  # noqa: B017, whichever torchvision has
        THEIRS[name](*arguments)
    with pytest.raises(type(want.value)) as got:
        OURS[name](*arguments)
    assert str(got.value) == str(want.value)


# Focal loss --------------------------------------------------------------------------------------


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("alpha, gamma", [(0.25, 2), (-1, 1.5), (0.0, 0)])
@pytest.mark.parametrize("shape", [(7, 5), (2, 3, 4), (0, 5), ()])
def test_focal_loss_is_the_same(shape, alpha, gamma, reduction):
    targets = torch.rand(shape, dtype=torch.float64).round()
    found = []
    for function in (OURS["sigmoid_focal_loss"], THEIRS["sigmoid_focal_loss"]):
        torch.manual_seed(0)
        inputs = (torch.randn(shape, dtype=torch.float64) * 3).requires_grad_()
        loss = function(inputs, targets, alpha=alpha, gamma=gamma, reduction=reduction)
        if not loss.isnan().any():  # the mean of nothing
            loss.sum().backward()
        found.append((loss, inputs.grad))
    torch.testing.assert_close(*found, rtol=1e-12, atol=1e-12, equal_nan=True)


def test_focal_loss_keeps_the_gradient_of_its_targets():
    inputs, targets = torch.randn(6, 3, requires_grad=True), torch.rand(6, 3, requires_grad=True)
    got, want = (
        torch.autograd.grad(f["sigmoid_focal_loss"](inputs, targets, reduction="sum"), targets)
        for f in (OURS, THEIRS)
    )
    assert torch.equal(*got, *want)


def test_focal_loss_of_dtypes_that_differ_goes_to_torchvision():
    inputs, targets = torch.randn(6, 3), torch.rand(6, 3, dtype=torch.float64)
    got, want = (f["sigmoid_focal_loss"](inputs, targets) for f in (OURS, THEIRS))
    assert got.dtype == want.dtype == torch.float64 and torch.equal(got, want)


# Matching ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "matcher, mixin",
    [
        (Matcher(0.7, 0.3, allow_low_quality_matches=True), _matching.PairMatcher),
        (Matcher(0.5, 0.5, allow_low_quality_matches=False), _matching.PairMatcher),
        (SSDMatcher(0.5), _matching.SSDPairMatcher),
    ],
)
@pytest.mark.parametrize("seed", range(5))
def test_matchers_give_the_same(matcher, mixin, seed):
    """Some anchors twice, so that there are ties; some boxes twice, that share a best anchor."""
    torch.manual_seed(seed)
    anchors = some_boxes(300)
    anchors = torch.cat([anchors, anchors[:100]])
    gt_boxes = some_boxes(12)
    gt_boxes = torch.cat([gt_boxes, gt_boxes[:3], anchors[:2]])
    if mixin is _matching.SSDPairMatcher:  # a box that overlaps no anchor gets the first
        gt_boxes = torch.cat([gt_boxes, gt_boxes[:1] + 1000])
    matrix = torchvision.ops.box_iou(gt_boxes, anchors)
    want = matcher(matrix)
    ours = type(matcher).__new__(type(matcher))
    vars(ours).update(vars(matcher))
    swap("accelerate", [Change(ours, (mixin,), {})])
    got = ours(_matching.pairs(gt_boxes, anchors))
    assert got.dtype == want.dtype and torch.equal(got, want)
    assert torch.equal(ours(matrix), want)


def test_pairs_are_a_matrix_where_ours_would_differ():
    boxes = some_boxes(4)
    assert isinstance(_matching.pairs(boxes, boxes), _matching.Pairs)
    for gt, anchors in ((boxes.double(), boxes.double()), (boxes[:0], boxes), (boxes, boxes[:0])):
        assert torch.equal(_matching.pairs(gt, anchors), torchvision.ops.box_iou(gt, anchors))


def test_a_box_that_overlaps_no_anchor_claims_none():
    """There torchvision makes every anchor foreground."""
    matcher = Matcher(0.7, 0.3, allow_low_quality_matches=True)
    far, anchors = torch.tensor([[900.0, 900.0, 950.0, 950.0]]), some_boxes(20)
    assert (matcher(ops.box_iou(far, anchors)) >= 0).all()
    swap("accelerate", [Change(matcher, (_matching.PairMatcher,), {})])
    assert (matcher(_matching.pairs(far, anchors)) == -1).all()
