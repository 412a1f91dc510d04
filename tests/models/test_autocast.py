"""The detector under autocast: half maps into float32 losses and detections."""

from __future__ import annotations

import pytest
import torch

import focaldet.models.losses
import focaldet.models.retinanet
from focaldet.models import RetinaNet

TRUTH = (
    torch.tensor([[4.0, 6, 40, 50], [30, 30, 70, 60], [5, 5, 30, 35]]),
    torch.tensor([0, 2, 1]),
    torch.tensor([0, 2, 3]),
)
IMAGES = torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))


def detector(**options: object) -> RetinaNet:
    torch.manual_seed(0)
    small = {"norm": "group", "width": 8, "fpn_channels": 16, "head_depth": 1}
    return RetinaNet(3, "resnet18", **small, **options)


@pytest.mark.parametrize("loss", ["focal", "ohem"])
def test_training(loss: str) -> None:
    """The losses are float32, and the gradients point where those without autocast do."""
    results = []
    for enabled in (True, False):
        model = detector(loss=loss)
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            losses = model.loss(IMAGES, *TRUTH)
        (losses.classification + losses.bbox_regression).backward()
        results.append((losses, [p.grad for p in model.parameters()]))
    (got, ours), (want, theirs) = results
    assert got.n_foreground == want.n_foreground
    for a, b in zip(got[:2], want[:2], strict=True):
        assert a.dtype == torch.float32
        torch.testing.assert_close(a, b, rtol=0.02, atol=0)
    assert all(g.dtype == torch.float32 and g.isfinite().all() and g.any() for g in ours)
    mine, other = (torch.cat([g.flatten() for g in all_of]) for all_of in (ours, theirs))
    assert torch.nn.functional.cosine_similarity(mine, other, dim=0) > 0.99


@pytest.mark.parametrize("name", ["retinanet_loss", "retinanet_postprocess"])
def test_operators_take_the_half_maps(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody casts them up before, and the anchors are numbers that no dtype rounds."""
    where = focaldet.models.losses if name == "retinanet_loss" else focaldet.models.retinanet
    real, seen = getattr(where, name), []

    def looking(logits, deltas, anchors, *rest, **options):
        seen.append(({level.dtype for level in (*logits, *deltas)}, anchors))
        return real(logits, deltas, anchors, *rest, **options)

    monkeypatch.setattr(where, name, looking)
    model = detector().eval()
    for enabled in (False, True):
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            if name == "retinanet_loss":
                model.loss(IMAGES, *TRUTH)
            else:
                model.detect(IMAGES, torch.tensor([[64, 96]] * 2))
    (full, anchors), (half, others) = seen
    assert (full, half) == ({torch.float32}, {torch.bfloat16}) and anchors == others


@torch.no_grad()
def test_detections_are_those_of_the_half_maps_in_float32() -> None:
    model = detector(score_thresh=0.0).eval()
    sizes = torch.tensor([[64, 96], [50, 70]])
    with torch.autocast("cpu", torch.bfloat16):
        maps = model.features(IMAGES)
        found = model.detect(IMAGES, sizes)
    model.features = lambda batch: tuple([level.float() for level in levels] for levels in maps)
    want = model.detect(IMAGES, sizes)
    assert want.counts.min() > 10
    for a, b in zip(found, want, strict=True):
        assert a.dtype == b.dtype and torch.equal(a, b)
