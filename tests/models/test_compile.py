"""The tensor core under torch.compile: whole, equal to eager, and not anew for every batch."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend

from focaldet.models import RetinaNet, for_inference
from focaldet.models.winograd import WinogradConv2d, use_winograd

K, SIZE = 3, (64, 96)


def detector(**options: object) -> RetinaNet:
    torch.manual_seed(0)
    small = {"backbone": "resnet18", "width": 8, "fpn_channels": 16, "head_depth": 1}
    model = RetinaNet(K, **small | options)
    nn.init.normal_(model.head.classification_head.cls_logits.weight, std=0.5)
    nn.init.normal_(model.head.regression_head.bbox_reg.weight, std=0.1)
    return model


def truth(boxes: int, of_first: int) -> tuple[Tensor, Tensor, Tensor]:
    """The boxes of two images; their number may change without another compilation."""
    corner = torch.rand(boxes, 2) * 40
    rows = torch.cat([corner, corner + 8 + torch.rand(boxes, 2) * 16], dim=1)
    labels = torch.randint(K, (boxes,))
    for tensor in (rows, labels):
        torch._dynamo.maybe_mark_dynamic(tensor, 0)
    return rows, labels, torch.tensor([0, of_first, boxes])


def assert_trains_the_same(
    model: RetinaNet, backend: str, truths: list[tuple[Tensor, ...]], rtol: float
) -> int:
    """Losses, and gradients in norm; returns the number of compilations."""
    twin = copy.deepcopy(model)  # BatchNorm learns in both
    torch._dynamo.reset()
    counter = CompileCounterWithBackend(backend)
    loss = torch.compile(model.loss, fullgraph=True, backend=counter)
    for given in truths:
        batch = torch.rand(2, 3, *SIZE)
        results = []
        for function, parameters in ((loss, model.parameters()), (twin.loss, twin.parameters())):
            losses = function(batch, *given)
            total = losses[0] + losses[1]
            results.append((losses, torch.autograd.grad(total, list(parameters))))
        (got, ours), (want, theirs) = results
        assert torch.equal(got[2], want[2])
        torch.testing.assert_close(got[:2], want[:2], rtol=rtol, atol=1e-6)
        for a, b in zip(ours, theirs, strict=True):
            assert (a - b).norm() <= 10 * rtol * b.norm() + 1e-6
    return counter.frame_count


@pytest.mark.slow
def test_the_number_of_boxes_compiles_nothing_anew() -> None:
    truths = [truth(5, 2), truth(9, 4), truth(7, 7), truth(12, 0)]
    assert assert_trains_the_same(detector(norm="frozen"), "aot_eager", truths, 1e-6) == 1


OPTIONS = {
    "v2": {"head_norm": "group", "p6_from": "c5", "box_loss": "giou", "norm": "group"},
    "image": {"normalizer": "image", "box_loss": "ciou"},
    "ohem": {"loss": "ohem"},
    "ohem_1to3": {"loss": "ohem_1to3"},
}  # cross entropy is the focal loss with other numbers


@pytest.mark.slow
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_every_configuration_trains_whole(options: dict[str, object]) -> None:
    assert assert_trains_the_same(detector(**options), "aot_eager", [truth(5, 2)], 1e-6) == 1


@pytest.mark.slow
def test_inductor_trains(compiled: None) -> None:
    """Other kernels: sums in another order."""
    truths = [truth(5, 2), truth(9, 4)]
    assert assert_trains_the_same(detector(norm="frozen"), "inductor", truths, 1e-4) == 1


@pytest.mark.slow
def test_winograd_trains_whole() -> None:
    model = use_winograd(detector(norm="frozen", fpn_channels=128))
    assert any(isinstance(module, WinogradConv2d) for module in model.modules())
    assert assert_trains_the_same(model, "aot_eager", [truth(5, 2)], 1e-5) == 1


def assert_detects_the_same(model: RetinaNet, backend: str) -> None:
    for p in model.head.classification_head.cls_logits.parameters():
        nn.init.normal_(p, std=3.0)  # scores that pass the threshold, and lie apart
    torch._dynamo.reset()
    counter = CompileCounterWithBackend(backend)
    detect = torch.compile(model.detect, fullgraph=True, backend=counter)
    sizes = torch.tensor([SIZE, (50, 70)])
    with torch.no_grad():
        for _ in range(2):
            batch = torch.rand(2, 3, *SIZE)
            got, want = detect(batch, sizes), model.detect(batch, sizes)
            assert type(got) is type(want) and want.counts.min() > 10
            torch.testing.assert_close(got.scores, want.scores, rtol=0, atol=1e-4)
            # Scores that rounding sets apart may change places.
            same = (got.labels == want.labels) & ((got.boxes - want.boxes).abs().amax(-1) < 0.05)
            assert same.float().mean() > 0.95
    assert counter.frame_count == 1


DETECTORS = {
    "v1": {},
    "v2": {"head_norm": "group", "p6_from": "c5"},
    "frozen": {"norm": "frozen"},
}


@pytest.mark.slow
@pytest.mark.parametrize("options", DETECTORS.values(), ids=DETECTORS)
def test_detects_whole(options: dict[str, object]) -> None:
    assert_detects_the_same(detector(**options).eval(), "aot_eager")


def test_the_copy_for_inference_detects_whole() -> None:
    model = for_inference(detector(fpn_channels=128).eval())
    assert any(isinstance(module, WinogradConv2d) for module in model.modules())
    assert_detects_the_same(model, "aot_eager")


@pytest.mark.slow
def test_inductor_detects(compiled: None) -> None:
    assert_detects_the_same(detector().eval(), "inductor")
