"""`python -m benchmarks.bars.end_to_end_worker WORK PROVIDER WEIGHTS`: one way to run the detector.

A process for each, so that each has its own peak of memory, and end_to_end.py lets them work in
turns: a line of JSON says what was prepared, and for every line of input follows one with the
seconds of one call and the peak since all was prepared.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from focaldet.models import RetinaNet, for_inference, winograd
from focaldet.models.resnet import BasicBlock, Bottleneck

from .. import memory
from ..case import Run
from ..inputs import Setup
from ..ops import model
from ..ops.model import Inputs
from .command import on_cpu

PROVIDERS = {
    "inference": (
        "torchvision",
        "torchvision compiled",
        "focaldet",
        "folded",
        "for_inference",
        "compiled",
        "bfloat16",
    ),
    "training": ("torchvision", "focaldet", "train", "bfloat16"),
}
RATE = "rate"  # the provider that is one convolution of the head


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        "python -m benchmarks.bars.end_to_end_worker", description=__doc__
    )
    parser.add_argument("work", choices=PROVIDERS)
    parser.add_argument("provider")
    parser.add_argument("weights", type=Path)
    parser.add_argument("--backbone", required=True)
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args(argv)
    x = inputs(args.work, args.backbone, args.quick)
    if args.provider == "weights":
        make_weights(args.work, x)
        save_file({k: v.contiguous() for k, v in x.model.state_dict().items()}, args.weights)
        return 0
    x.model.load_state_dict(load_file(args.weights))
    try:
        run, said = prepared(args.work, args.provider, x)
    except ModuleNotFoundError as error:
        run, said = None, {"note": f"{error.name} is not installed"}
    del x  # whose model may no longer be needed
    memory.forget_peak()
    say(said)
    for _ in sys.stdin if run else ():
        start = time.perf_counter()
        run()
        say({"seconds": time.perf_counter() - start, "peak": memory.peak()})
    return 0


def say(what: dict[str, Any]) -> None:
    print(json.dumps(what), flush=True)


def setup_of(work: str, quick: bool) -> tuple[Setup, int, int]:
    """Where and how large, images, classes."""
    setup = on_cpu(quick)
    if work == "inference":
        return setup, 1, model.CLASSES
    return setup if quick else replace(setup, image=model.SMALL), 2 if quick else 8, 3


def inputs(work: str, backbone: str, quick: bool) -> Inputs:
    setup, batch, classes = setup_of(work, quick)
    return model.inputs(setup, batch, classes, backbone)


@torch.no_grad()
def make_weights(work: str, x: Inputs) -> None:
    """Batch statistics that fit, so that activations keep their size, and scores that spread.

    The blocks of a new ResNet add as much as they are given, and 16 of them make of a rounding
    error a thousand times as much. Trained ones do not; these add a fifth.
    """
    for module in x.model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
        if isinstance(module, BasicBlock | Bottleneck):
            last = module.bn3 if isinstance(module, Bottleneck) else module.bn2
            last.weight.fill_(0.2)
    x.model.train().backbone(x.model.transform.images(x.images).batch)
    if work == "inference":
        model.spread_scores(x)


# Providers --------------------------------------------------------------------------------------


def prepared(work: str, provider: str, x: Inputs) -> tuple[Run, dict[str, Any]]:
    """The call to time, after its first call, and what is known of it."""
    start = time.perf_counter()
    if provider == RATE:
        run, said = one_convolution(x)
    elif work == "inference":
        run, said = inference(provider, x)
    else:
        run, said = training(provider, x)
    return run, {"prepared": time.perf_counter() - start, **said}


def inference(provider: str, x: Inputs) -> tuple[Run, dict[str, Any]]:
    x.model.eval()
    if provider == "folded":  # without Winograd's algorithm
        winograd.LEAST_CHANNELS = sys.maxsize
    makers: dict[str, Callable[[], nn.Module]] = {
        "torchvision": lambda: model.torchvision_model(x),
        "torchvision compiled": lambda: frozen(model.torchvision_model(x).eval()),
        "focaldet": lambda: x.model,
        "folded": lambda: for_inference(x.model),
        "for_inference": lambda: for_inference(x.model),
        "compiled": lambda: frozen(for_inference(x.model)),
        "bfloat16": lambda: for_inference(x.model.bfloat16()),
    }
    x = x._replace(model=makers[provider]())
    run = model.inference(x.model, x)
    found = run()
    said = {"found": [{k: v.float().tolist() for k, v in one.items()} for one in found]}
    return run, said if "compiled" in provider else said | looked_into(x.model, run)


def frozen(detector: nn.Module) -> nn.Module:
    """torch.compile with the weights as constants, which Inductor packs for oneDNN. Of ours all
    between the padded images and the padded detections is one graph. torchvision's whole model
    Inductor does not get through (torch 2.14): its backbone and its head."""
    torch._inductor.config.freezing = True
    if isinstance(detector, RetinaNet):
        detector.detect = torch.compile(detector.detect, fullgraph=True)
    else:
        detector.backbone.compile(fullgraph=True)
        detector.head.compile(fullgraph=True)
    return detector


def training(provider: str, x: Inputs) -> tuple[Run, dict[str, Any]]:
    if provider == "torchvision":
        x = x._replace(model=model.torchvision_model(x))
    if provider in ("train", "bfloat16"):  # as focaldet.train prepares it
        winograd.use_winograd(x.model.to(memory_format=torch.channels_last))
    if provider == "bfloat16":
        x = x._replace(autocast=torch.autocast("cpu", torch.bfloat16))
    run = model.training_step(x.model, x)
    *losses, _ = run()
    # The run's own last result, the gradient of the very first layer, hangs on every ReLU that
    # rounding turns.
    gradient = x.model.get_parameter("head.classification_head.conv.0.0.weight").grad
    said = {"losses": [loss.item() for loss in losses], "gradient": gradient.norm().item()}
    return run, said | looked_into(x.model, run)


def one_convolution(x: Inputs) -> tuple[Run, dict[str, Any]]:
    """A layer of the head on P3, direct: what the machine's convolutions reach at best."""
    batch = x.model.transform.images(x.images).batch
    height, width = (side // 8 for side in batch.shape[-2:])
    conv = nn.Conv2d(256, 256, 3, padding=1).to(memory_format=torch.channels_last)
    level = torch.rand(len(batch), 256, height, width).to(memory_format=torch.channels_last)

    @torch.no_grad()
    def run() -> Tensor:
        return conv(level)

    return run, {"flops": [2 * run().numel() * conv.weight[0].numel(), 0]}


# What goes where --------------------------------------------------------------------------------


def looked_into(detector: nn.Module, run: Run) -> dict[str, Any]:
    """Seconds of the parts of a call, and FLOPs of its convolutions, forward: of those done
    directly, and of those that Winograd's way saves three quarters of. What torchvision does to
    its head's maps, to permute and concatenate them, it does in the head."""
    marks: list[float] = []
    flops = [0, 0]

    def mark(*_: Any) -> None:
        marks.append(time.perf_counter())

    def count(conv: nn.Module, args: tuple[Tensor], out: Tensor) -> None:
        fast = isinstance(conv, winograd.WinogradConv2d) and conv.pays(*args)
        flops[fast] += 2 * out.numel() * conv.weight[0].numel()

    backbone = detector.backbone
    hooks = [
        backbone.body.register_forward_pre_hook(mark),
        backbone.body.register_forward_hook(mark),
        backbone.fpn.register_forward_hook(mark),
        detector.head.register_forward_hook(mark),
        *(m.register_forward_hook(count) for m in detector.modules() if isinstance(m, nn.Conv2d)),
    ]
    if detector.training:
        hooks.append(detector.register_forward_hook(mark))
    mark()
    run()
    mark()
    for hook in hooks:
        hook.remove()
    ends = ["backward, update"] if detector.training else []
    last = "loss" if detector.training else "post-process"
    names = ["transform", "body", "FPN", "head", last, *ends]
    stages = {name: b - a for name, a, b in zip(names, marks[:-1], marks[1:], strict=True)}
    return {"stages": stages, "flops": flops}


if __name__ == "__main__":
    sys.exit(main())
