"""examples/huggingface_detr.py against transformers' own losses, and with models of its."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

transformers = pytest.importorskip("transformers", reason="transformers is not installed")
Recipe = Callable[[str], ModuleType]


def own(name: str) -> Callable[..., Tensor]:
    """transformers' function, at the moment."""
    module = {"mean": "loss_for_object_detection", "sum": "loss_grounding_dino"}[name]
    return getattr(transformers.loss, module).sigmoid_focal_loss


def with_gradient(loss: Callable[..., Tensor], logits: Tensor, *arguments: Any) -> list[Tensor]:
    leaf = logits.detach().requires_grad_()
    value = loss(leaf, *arguments)
    return [value.detach(), torch.autograd.grad(value, leaf)[0]]


@pytest.fixture(autouse=True)
def _losses_loaded() -> None:
    import transformers.loss.loss_utils  # noqa: F401


@pytest.mark.parametrize("name", ["mean", "sum"])
@pytest.mark.parametrize("alpha, gamma", [(0.25, 2), (-1, 0), (0.6, 1.5)])
@pytest.mark.parametrize("shape", [(2, 30, 7), (3, 50), (0, 50)])
def test_losses_and_gradients(
    recipe: Recipe, name: str, alpha: float, gamma: float, shape: tuple[int, ...]
) -> None:
    logits, targets = torch.randn(shape, dtype=torch.float64), torch.rand(shape).round().double()
    theirs = with_gradient(own(name), logits, targets, 3.0, alpha, gamma)
    with recipe("huggingface_detr").accelerate_detr_losses():
        assert own(name).__module__ == "huggingface_detr"
        ours = with_gradient(own(name), logits, targets, 3.0, alpha, gamma)
    assert own(name).__module__.startswith("transformers")
    torch.testing.assert_close(ours, theirs)


def test_what_is_replaced(recipe: Recipe) -> None:
    """Where a name is missing, a release of transformers has moved it: its losses would silently
    stay as they are."""
    with recipe("huggingface_detr").accelerate_detr_losses() as swap:
        replaced = {name.split(".")[-2] for name in swap.replaced}
    assert {"loss_for_object_detection", "loss_deformable_detr", "loss_grounding_dino"} <= replaced


def test_half_types(recipe: Recipe) -> None:
    """Against their formula in float64 of the same numbers: theirs in bfloat16 is far off."""
    logits = (torch.randn(2, 40, 9) - 4).bfloat16()
    targets = (torch.rand(logits.shape) < 0.05).bfloat16()
    wide = with_gradient(own("mean"), logits.double(), targets.double(), 3.0)
    with recipe("huggingface_detr").accelerate_detr_losses():
        loss, gradient = with_gradient(own("mean"), logits, targets, 3.0)
    torch.testing.assert_close(loss.double(), wide[0], rtol=1e-5, atol=0)
    # A gradient is rounded to bfloat16, 2^-8 relative, once by the operator and once for num_boxes.
    torch.testing.assert_close(gradient.double(), wide[1], rtol=2**-7, atol=1e-9)


SMALL = {
    "d_model": 32,
    "encoder_layers": 1,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 32,
    "decoder_ffn_dim": 32,
    "num_labels": 5,
    "auxiliary_loss": True,
}


def conditional_detr() -> Any:
    backbone = transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 8, 16, 16], depths=[1] * 4, out_features=["stage4"]
    )
    config = transformers.ConditionalDetrConfig(
        backbone_config=backbone,
        num_queries=12,
        **SMALL,
    )
    return transformers.ConditionalDetrForObjectDetection(config)


def deformable_detr() -> Any:
    backbone = transformers.ResNetConfig(
        embedding_size=8,
        hidden_sizes=[8, 8, 16, 16],
        depths=[1] * 4,
        out_features=["stage3", "stage4"],
    )
    config = transformers.DeformableDetrConfig(
        backbone_config=backbone,
        num_queries=12,
        num_feature_levels=2,
        **SMALL,
    )
    return transformers.DeformableDetrForObjectDetection(config)


@pytest.mark.parametrize("make", [conditional_detr, deformable_detr])
def test_a_training_step(recipe: Recipe, make: Callable[[], Any]) -> None:
    """Of a model with random weights; its second image has no boxes."""
    pytest.importorskip("scipy", reason="scipy, which transformers matches with, is not installed")
    model = make().eval()  # no dropout, so that a step can be repeated
    pixels = torch.randn(2, 3, 64, 64)
    labels = [
        {"class_labels": torch.tensor([0, 4]), "boxes": torch.rand(2, 4) * 0.3 + 0.3},
        {"class_labels": torch.zeros(0, dtype=torch.int64), "boxes": torch.zeros(0, 4)},
    ]

    def step() -> list[Tensor]:
        model.zero_grad()
        out = model(pixels, labels=labels)
        out.loss.backward()
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        return [out.loss.detach(), out.loss_dict["loss_ce_0"].detach(), *gradients]

    theirs = step()
    with recipe("huggingface_detr").accelerate_detr_losses():
        ours = step()
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)
    assert any(g.abs().max() > 1e-3 for g in theirs[2:])


def test_the_script_runs(recipe: Recipe, capsys: pytest.CaptureFixture[str]) -> None:
    recipe("huggingface_detr").main()
    printed = capsys.readouterr().out
    assert "replaced transformers.loss.loss_deformable_detr.sigmoid_focal_loss" in printed
    assert "gradients agree" in printed
