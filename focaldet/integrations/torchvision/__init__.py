"""torchvision's detectors and operators on those of `focaldet.ops`.

`accelerate` changes one model and `restore` undoes it; `patch_ops` swaps functions for a while.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import nn
from torchvision.models import detection
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN
from torchvision.models.detection.ssd import SSD

from . import _convolutions, _retinanet, _shared
from ._patch import patch_ops
from ._plan import Plan, carry_out
from ._report import Left, Replaced, Report
from ._swap import original, undo

__all__ = ["Left", "Replaced", "Report", "accelerate", "patch_ops", "restore"]

_PLANS: dict[type, Callable[[nn.Module], Plan]] = {
    detection.RetinaNet: _retinanet.plan,
    detection.FCOS: lambda model: _shared.plan(model, detection.FCOS),
    SSD: lambda model: _shared.plan(model, SSD),
    GeneralizedRCNN: lambda model: _shared.plan(model, GeneralizedRCNN),
}
_TRANSFORM = Left("transform", "resizing and normalising stay torchvision's")
_CONVOLUTIONS = Left("convolutions", "convolutions=True replaces them, and changes rounding")
_KNOWN = "RetinaNet, FCOS, SSD, SSDlite, Faster R-CNN, Mask R-CNN and Keypoint R-CNN"


def accelerate(model: nn.Module, *, convolutions: bool = False) -> Report:
    """Has a detector of torchvision use focaldet's operators, in place; says what it replaced.

    A RetinaNet (any backbone, v1 or v2 head) computes its losses and its detections from the raw
    maps of its head; FCOS, SSD, SSDlite, Faster, Mask and Keypoint R-CNN keep their code and call
    our focal loss, batched NMS and matcher. Subclasses count as what they derive from. The model
    is called, trained and saved as before, and its parts, parameters and state dict are the same
    objects; only classes of parts change, so that deepcopy, pickle and torch.save, hooks, autocast,
    torch.compile, DistributedDataParallel around the model and `model.to` work. No other model is
    affected, unless the two share modules. torch.jit.script and torch.jit.trace do not work, nor
    what is built on them, such as TorchScript's export to ONNX; `restore` first.

    Results are torchvision's but for rounding, and for what it computes otherwise:

    - An IoU of exactly the NMS threshold in float32: torchvision compares with a double on the CPU.
    - Its batched NMS moves classes apart by adding to coordinates, which rounds them, and lets
      boxes with negative coordinates meet other classes' boxes.
    - Equal scores keep the order of the anchors. torchvision's batched NMS of more than 1000 boxes
      sorts them as it happens, and with that an R-CNN samples other proposals in training.
    - A box that overlaps no anchor matches none; there, torchvision makes every anchor foreground.
    - Boxes of the ground truth that are not finite raise ValueError on the CPU, where torchvision's
      losses are NaN.
    - RetinaNet computes losses in float32 also from half-type maps, and anchors never in a half
      type: torchvision loses precision there, under autocast too. Losses and detections are float32
      also for half and double models, the losses of a double model float64. Detections have no
      gradient. Labels outside of [0, num_classes) raise IndexError.

    Hooks on all parts of a model fire as before. In a RetinaNet what `head` and its two subnets
    give is a list of raw maps [B, A*K, H, W] or [B, A*4, H, W] by level, and what
    `anchor_generator` gives is a `focaldet.Anchors`. Where a part of an accelerated model is
    exchanged (another head, matcher or anchor generator), accelerate the model again.

    Args:
        model: in either mode. A RetinaNet then runs where our operators do, on the CPU and on CUDA;
            on other devices the others call torchvision's. One that is wrapped (DataParallel and
            the like): the model within.
        convolutions: also take the convolutions as `focaldet.models` does on the CPU: wide 3x3 ones
            by Winograd's algorithm, the others in channels_last. Then every result changes by
            rounding, and gradients of gradients cannot be taken.

    Returns:
        A `Report`; print it. A model that was accelerated before keeps its convolutions so, and
        is otherwise changed to what it would be now: new parts are accelerated, and what calls a
        part that ours cannot stand for is put back.

    Raises:
        TypeError: for a model that is none of these.
        ValueError: for a RetinaNet that has a part of its own where ours would take over, such as
            an overridden method, another head or box coder, saying which. Of the others a method
            that is overridden stays, and the report says so; if nothing is left, ValueError. Also
            for a part whose class does not let others derive from it.
        Nothing is changed then.
    """
    plan = next((plan for kind, plan in _PLANS.items() if isinstance(model, kind)), None)
    if plan is None:
        raise TypeError(
            f"accelerate: expected a detector of torchvision ({_KNOWN}), got "
            f"{type(model).__module__}.{type(model).__qualname__}{_within(model)}. "
            "Nothing was changed."
        )
    steps, left = plan(model)
    if convolutions or _convolutions.taken(model):
        steps = steps + _convolutions.steps(model)
    else:
        left = [*left, _CONVOLUTIONS]
    new = carry_out(model, steps)
    rows = tuple(row for step in steps for row in step.rows)
    return Report(original(model).__name__, rows, (*left, _TRANSFORM), new)


def _within(model: object) -> str:
    """Where a wrapper has a detector."""
    for name, part in model.named_children() if isinstance(model, nn.Module) else ():
        if isinstance(part, tuple(_PLANS)):
            return f", whose .{name} is one"
    return ""


def restore(model: nn.Module) -> int:
    """Undoes `accelerate`: every part has the class and the attributes that it had.

    Returns how many parts were put back: 0 for a model that was not accelerated. Raises TypeError
    if it is no module, and ValueError, with nothing changed, if a part has since got a class that
    derives from the accelerated one, as by a parametrization or fully_shard.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"restore: expected a torch.nn.Module, got {type(model).__name__}")
    return undo(model)
