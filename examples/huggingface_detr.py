"""Hugging Face transformers: the focal loss of the DETR family, in one pass over the logits.

For whom: who trains Deformable DETR, Conditional DETR, DAB-DETR or (MM) Grounding DINO with
transformers' own losses, or masks with DETR's. Nothing else changes: same models, checkpoints,
matching and box losses.

    from huggingface_detr import accelerate_detr_losses

    with accelerate_detr_losses() as swap:  # or keep what it returns, and undo() it some day
        print(swap)  # what was replaced
        trainer.train()

What it saves: transformers computes the loss with a dozen operations, each of which writes a tensor
of the size of the logits, once per decoder layer. Here loss and gradient come from one.

What differs: for half types the loss is float32, summed in float32 from sigma(x) and sigma(-x), so
that it does not vanish where 1 - p rounds to 0. What is not replaced: the losses of RT-DETR, D-FINE
and DEIMv2 for labels (theirs is a varifocal loss whose weight is held constant in the backward,
which `ops.varifocal_loss` differentiates), and of LW-DETR and RF-DETR, a formula of their own.
"""

from __future__ import annotations

from swap import Swap, swap
from torch import Tensor

from focaldet import ops


def accelerate_detr_losses() -> Swap:
    """Replaces `sigmoid_focal_loss` in transformers, until `undo` or the end of a `with`."""
    import transformers.loss.loss_utils  # noqa: F401  it imports all losses
    from transformers.loss import loss_for_object_detection, loss_grounding_dino

    return swap(
        "transformers",
        {
            loss_for_object_detection.sigmoid_focal_loss: sigmoid_focal_loss,
            loss_grounding_dino.sigmoid_focal_loss: summed_focal_loss,
        },
    )


def sigmoid_focal_loss(
    inputs: Tensor,  # [B, Q, K], or masks [N, P]
    targets: Tensor,  # of the same shape, in [0, 1]
    num_boxes: float | Tensor,
    alpha: float = 0.25,
    gamma: float = 2,
) -> Tensor:
    """The mean over dimension 1, summed, by box: as transformers.loss.loss_for_object_detection."""
    return summed_focal_loss(inputs, targets, num_boxes, alpha, gamma) / inputs.shape[1]


def summed_focal_loss(
    inputs: Tensor,
    targets: Tensor,
    num_boxes: float | Tensor,
    alpha: float = 0.25,
    gamma: float = 2,
) -> Tensor:
    """The sum by box: as transformers.loss.loss_grounding_dino."""
    targets = targets.to(inputs.dtype)
    return ops.sigmoid_focal_loss(inputs, targets, alpha, gamma, reduction="sum") / num_boxes


def main() -> None:
    import torch
    from transformers.loss import loss_deformable_detr

    logits = torch.randn(2, 300, 91, requires_grad=True)
    targets = (torch.rand(2, 300, 91) < 0.01).float()

    def loss() -> tuple[Tensor, Tensor]:
        found = loss_deformable_detr.sigmoid_focal_loss(logits, targets, 7.0, alpha=0.25, gamma=2)
        return found, *torch.autograd.grad(found, logits)

    theirs = loss()
    with accelerate_detr_losses() as swap:
        print(swap)
        ours = loss()
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other)
    print(f"loss {ours[0]:.6f} here, {theirs[0]:.6f} there; gradients agree")


if __name__ == "__main__":
    main()
