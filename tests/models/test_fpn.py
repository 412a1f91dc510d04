"""The pyramid from P2 on: what is computed, at which strides, and that it trains and is kept."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from focaldet.checkpoint import Description, load_model, save_checkpoint
from focaldet.export import export
from focaldet.models import RetinaNet, for_inference
from focaldet.models.fpn import FeaturePyramid
from focaldet.models.inference import folded
from focaldet.models.resnet import ResNet
from focaldet.ops import AnchorGrid

SMALL = {"backbone": "resnet18", "width": 8, "fpn_channels": 16, "head_depth": 1}
SIZES = {"min_size": 64, "max_size": 96}
STRIDES = (4, 8, 16, 32, 64)


def detector(**options: object) -> RetinaNet:
    torch.manual_seed(0)
    grid = AnchorGrid.paper(sizes=[8, 16, 32, 64, 128], strides=STRIDES)
    settings = {"finest_level": 2, "anchor_grid": grid} | SMALL | SIZES
    return RetinaNet(3, **settings | options)


def plain_pyramid(fpn: FeaturePyramid, maps: list[Tensor], p6_from: str) -> list[Tensor]:
    """C2 to C5 to P2 to P6, written out from its state dict."""
    weights = dict(fpn.named_parameters())

    def conv(name: str, x: Tensor, **options: int) -> Tensor:
        return F.conv2d(x, weights[f"{name}.weight"], weights[f"{name}.bias"], **options)

    above, levels = None, []
    for i in (3, 2, 1, 0):
        merged = conv(f"inner_blocks.{i}.0", maps[i])
        if above is not None:
            merged = merged + above.repeat_interleave(2, 2).repeat_interleave(2, 3)
        above = merged
        levels.insert(0, conv(f"layer_blocks.{i}.0", merged, padding=1))
    source = maps[3] if p6_from == "c5" else levels[3]
    return [*levels, conv("extra_blocks.p6", source, stride=2, padding=1)]


@pytest.mark.parametrize("p6_from", ["c5", "p5"])
def test_the_pyramid_is_a_plain_one_from_c2_on(p6_from: str) -> None:
    torch.manual_seed(0)
    maps = [torch.randn(2, c, 64 // s, 96 // s) for c, s in ((4, 1), (8, 2), (16, 4), (32, 8))]
    fpn = FeaturePyramid((4, 8, 16, 32), 8, p6_from)
    got, want = fpn(maps), plain_pyramid(fpn, maps, p6_from)
    for level, (ours, theirs) in enumerate(zip(got, want, strict=True), start=2):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5, msg=f"P{level}")


@pytest.mark.parametrize("variant", ["resnet18", "resnet50"])
def test_c2_is_before_the_others_of_the_same_body(variant: str) -> None:
    coarse, fine = (ResNet(variant, width=8, finest_level=level).eval() for level in (3, 2))
    fine.load_state_dict(coarse.state_dict())
    image = torch.rand(1, 3, 64, 96)
    c2, *others = fine(image)
    assert [m.shape[1] for m in (c2, *others)] == list(fine.out_channels)
    assert c2.shape[-2:] == (16, 24)
    assert all(torch.equal(a, b) for a, b in zip(others, coarse(image), strict=True))


@pytest.mark.parametrize("backbone", ["resnet18", "timm/resnet18"])
def test_levels_have_the_strides_of_their_anchors(backbone: str) -> None:
    width = 64
    if backbone.startswith("timm"):
        pytest.importorskip("timm")
    else:
        width = 8
    model = detector(backbone=backbone, width=width).eval()
    batch = torch.rand(1, 3, 64, 128)
    maps, _ = model.features(batch)
    assert [tuple(m.shape[-2:]) for m in maps] == [(64 // s, 128 // s) for s in STRIDES]
    # And the grid that takes its strides from the image comes to the same.
    from_image = AnchorGrid.torchvision(sizes=[8, 16, 32, 64, 128])
    sizes = [(64 // s, 128 // s) for s in STRIDES]
    assert from_image.at(sizes, (64, 128)).strides == tuple((s, s) for s in STRIDES)


def test_it_trains_and_every_parameter_learns() -> None:
    model = detector().train()
    target = {"boxes": torch.tensor([[4.0, 6, 12, 13]]), "labels": torch.tensor([1])}
    losses = model([torch.rand(3, 64, 96)], [target])
    sum(losses.values()).backward()
    without = [
        n for n, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()
    ]
    assert not without
    assert model.backbone.fpn.inner_blocks[0][0].weight.grad.abs().sum() > 0


def test_a_checkpoint_rebuilds_it_and_it_is_exported(tmp_path: Path) -> None:
    model = detector().eval()
    torch.nn.init.normal_(model.head.classification_head.cls_logits.weight, std=1.0)
    path = tmp_path / "model.safetensors"
    save_checkpoint(path, model.state_dict(), Description(model.config, list("abc"), [1, 2, 3]))
    again = load_model(path)[0].to(memory_format=torch.contiguous_format)
    batch, sizes = torch.rand(1, 3, 64, 96), torch.tensor([[64, 96]])
    with torch.no_grad():
        want, found = model.detect(batch, sizes), again.detect(batch, sizes)
        assert all(torch.equal(a, b) for a, b in zip(want, found, strict=True))
        assert int(want.counts) > 0
        quick = for_inference(model).detect(batch, sizes)
        torch.testing.assert_close(quick.scores, want.scores, rtol=1e-3, atol=1e-4)
        exported = export(model).module()(batch, sizes)
        bits = folded(model, "test").detect(batch, sizes)
    assert all(torch.equal(a, b) for a, b in zip(exported, bits, strict=True))


def test_what_a_config_of_before_lacks_is_p3() -> None:
    model = RetinaNet(3, **SMALL, **SIZES)
    older = {k: v for k, v in model.config.items() if k != "finest_level"}
    assert RetinaNet.complete(older) == model.config
    assert RetinaNet.from_config(older).state_dict().keys() == model.state_dict().keys()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"finest_level": 1}, r"finest_level: expected one of \(2, 3\), got 1"),
        ({"anchor_grid": AnchorGrid.paper()}, r"strides \(4, 8, 16, 32, 64\) of P2 to P6, got \(8"),
        ({"finest_level": 3}, r"strides \(8, 16, 32, 64, 128\) of P3 to P7, got \(4"),
        ({"anchor_grid": AnchorGrid.torchvision([8, 16])}, "the 5 levels P2 to P6, got 2"),
    ],
)
def test_levels_and_anchors_that_do_not_fit(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        detector(**options)


def test_a_body_of_timm_without_stride_4() -> None:
    pytest.importorskip("timm")
    with pytest.raises(ValueError, match=r"expected feature maps of strides \(4, 8, 16, 32\)"):
        detector(backbone="timm/vit_tiny_patch16_224", width=64)
