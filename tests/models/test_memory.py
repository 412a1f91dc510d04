"""The detector trains on the CPU without memory for the gradient of its logits."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from focaldet.models import RetinaNet
from focaldet.ops import retinanet_loss

TRUTH = (
    torch.tensor([[4.0, 6, 40, 38], [50, 20, 62, 34]]),
    torch.tensor([0, 2]),
    torch.tensor([0, 1, 2]),
)


def step(
    layout: torch.memory_format, precision: torch.dtype, looking: bool, **loss: str | None
) -> tuple[list[Tensor], list[Tensor]]:
    """The parameters' gradients, and the head's outputs after the loss."""
    torch.manual_seed(0)
    model = RetinaNet(3, "resnet18", norm="group", width=8, fpn_channels=16, head_depth=1)
    model.to(memory_format=layout)
    if loss:  # the losses of the criterion, but in this mode
        options = {k: v for k, v in model.criterion.keywords.items()}
        model.criterion = lambda *args: retinanet_loss(*args, **options, **loss)
    outputs: list[Tensor] = []
    aliases: list[Tensor] = []

    def keep(module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        outputs.append(output)
        if looking:
            aliases.append(output.detach())

    for part in (model.head.classification_head.cls_logits, model.head.regression_head.bbox_reg):
        part.register_forward_hook(keep)
    batch = torch.randn(2, 3, 64, 96).contiguous(memory_format=layout)
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == torch.bfloat16):
        losses = model.loss(batch, *TRUTH)
    (losses.classification + losses.bbox_regression).backward()
    return [p.grad for p in model.parameters()], outputs


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_gradients_take_the_place_of_the_logits(
    layout: torch.memory_format, precision: torch.dtype
) -> None:
    got, outputs = step(layout, precision, looking=False)
    want, kept = step(layout, precision, looking=False, mode="save_gradient")
    assert all(output.shape == (0,) for output in outputs)
    assert all(output.dim() == 4 and output.dtype == precision for output in kept)
    assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))


def test_logits_that_somebody_looks_at_are_kept() -> None:
    got, outputs = step(torch.contiguous_format, torch.float32, looking=True)
    want, _ = step(torch.contiguous_format, torch.float32, looking=False)
    assert all(output.dim() == 4 for output in outputs)
    assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))
