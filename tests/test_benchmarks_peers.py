"""How benchmarks calls other packages: small stand-ins, which take what the packages' documentation
says and give what it promises, agree with ours."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from focaldet import reference

pytestmark = pytest.mark.usefixtures("benchmarks")
CPU, CUDA = torch.device("cpu"), torch.device("cuda")  # the latter is named, not used
Install = Callable[..., None]


def part(name: str) -> ModuleType:
    return importlib.import_module(f"benchmarks.{name}")


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Install:
    """Puts a module with these members, and its parents, where import finds them."""

    def module(name: str, **members: Any) -> None:
        parts = name.split(".")
        for i in range(1, len(parts) + 1):
            path = ".".join(parts[:i])
            if path not in sys.modules:
                monkeypatch.setitem(sys.modules, path, ModuleType(path))
        for key, value in members.items():
            monkeypatch.setattr(sys.modules[name], key, value, raising=False)

    return module


def setup(device: torch.device = CPU, dtype: torch.dtype = torch.float32) -> Any:
    inputs = part("inputs")
    return inputs.Setup(device, dtype, inputs.THUMBNAIL, True)


def agree(provider: Any, x: Any, expected: Any) -> None:
    result = provider(x)()
    assert part("case").difference(result, expected, 1e-4) is None


def fvcore(logits: Tensor, targets: Tensor, alpha: float, gamma: float, reduction: str) -> Tensor:
    assert targets.dtype == logits.dtype and targets.shape == logits.shape
    return reference.sigmoid_focal_loss(logits, targets, alpha, gamma, reduction)


def mmcv_focal(
    input: Tensor, target: Tensor, gamma: float, alpha: float, weight: None, reduction: str
) -> Tensor:
    """A class from 0 to K - 1, or K for background."""
    assert int(target.min()) >= 0 and weight is None
    labels = torch.where(target == input.shape[1], -1, target)
    return reference.sigmoid_focal_loss(input, labels, alpha, gamma, reduction)


def apex_focal(
    cls_output: Tensor,
    cls_targets_at_level: Tensor,
    num_positive_sum: Tensor,
    num_real_classes: int,
    alpha: float,
    gamma: float,
    label_smoothing: float = 0.0,
) -> Tensor:
    assert cls_targets_at_level.dtype == torch.int64 and num_positive_sum.dtype == torch.float32
    assert cls_output.shape[1] == num_real_classes and label_smoothing == 0
    total = reference.sigmoid_focal_loss(cls_output, cls_targets_at_level, alpha, gamma, "sum")
    return total / num_positive_sum[0]


def mmcv_softmax(
    input: Tensor, target: Tensor, gamma: float, alpha: float, weight: None, reduction: str
) -> Tensor:
    return reference.softmax_focal_loss(input, target, alpha, gamma, reduction)


def test_losses(install: Install) -> None:
    peers, focal = part("peers"), part("ops.focal_loss")
    install("fvcore.nn", sigmoid_focal_loss_jit=fvcore)
    install("mmcv.ops", sigmoid_focal_loss=mmcv_focal, softmax_focal_loss=mmcv_softmax)
    install("apex.contrib.focal_loss.focal_loss", focal_loss=apex_focal)
    x = focal.inputs(setup(), 1, dense=False)
    expected = focal.reference_provider(x)()
    providers = peers.focal_loss(setup(CUDA), 80)
    assert set(providers) == {"detectron2", "mmcv", "apex"}
    for provider in providers.values():
        agree(provider, x, expected)

    softmax = part("ops.softmax_focal_loss")
    x = softmax.inputs(setup(), 81)
    expected = focal.both_ways(reference.softmax_focal_loss, x)()
    agree(peers.softmax_focal_loss(setup(CUDA))["mmcv"], x, expected)


def mmcv_nms(boxes: Tensor, scores: Tensor, iou_threshold: float) -> tuple[Tensor, Tensor]:
    keep = reference.nms(boxes, scores, iou_threshold)
    return torch.cat([boxes[keep], scores[keep, None]], dim=1), keep


def mmcv_batched(
    boxes: Tensor, scores: Tensor, idxs: Tensor, nms_cfg: dict[str, Any]
) -> tuple[Tensor, Tensor]:
    assert nms_cfg["type"] == "nms"
    keep = reference.batched_nms(boxes, scores, idxs, nms_cfg["iou_threshold"])
    return torch.cat([boxes[keep], scores[keep, None]], dim=1), keep


def test_suppression(install: Install) -> None:
    peers, nms = part("peers"), part("ops.nms")
    install("mmcv.ops", nms=mmcv_nms, batched_nms=mmcv_batched)
    names = SimpleNamespace(nms=reference.nms, batched_nms=reference.batched_nms)
    install("ultralytics.utils.nms", TorchNMS=names)
    install("detectron2.layers", batched_nms=reference.batched_nms)
    x = nms.inputs(setup(), nms.clustered, 50)
    for providers, function, arguments in (
        (peers.nms(setup(), 0.5), reference.nms, nms.one_group),
        (peers.batched_nms(setup(), 0.5), reference.batched_nms, nms.by_label),
    ):
        for provider in providers.values():
            agree(provider, x, function(*arguments(x)))


class Matcher:
    """Rows, and 1 for foreground, 0 for background, -1 between."""

    def __init__(
        self, thresholds: list[float], labels: list[int], allow_low_quality_matches: bool
    ) -> None:
        assert (thresholds, labels, allow_low_quality_matches) == ([0.4, 0.5], [0, -1, 1], True)

    def __call__(self, quality: Tensor) -> tuple[Tensor, Tensor]:
        best, rows = quality.max(dim=0)
        kinds = torch.where(best < 0.4, 0, torch.where(best < 0.5, -1, 1)).to(torch.int8)
        top = quality.amax(dim=1, keepdim=True)
        kinds[((quality == top) & (top > 0)).any(dim=0)] = 1
        return rows, kinds


class Coder:
    def __init__(self, weights: tuple[float, ...]) -> None:
        assert weights == (1.0, 1.0, 1.0, 1.0)

    def get_deltas(self, src_boxes: Tensor, target_boxes: Tensor) -> Tensor:
        return reference.encode_boxes(target_boxes, src_boxes)

    def apply_deltas(self, deltas: Tensor, boxes: Tensor) -> Tensor:
        return reference.decode_boxes(deltas, boxes)


def test_matching_and_boxes(install: Install) -> None:
    peers, match, boxes = part("peers"), part("ops.match"), part("ops.boxes")
    structures = {
        "Boxes": lambda tensor: SimpleNamespace(tensor=tensor),
        "pairwise_iou": lambda a, b: reference.box_iou(a.tensor, b.tensor),
    }
    install("detectron2.structures", **structures)
    install("detectron2.modeling.matcher", Matcher=Matcher)
    install("detectron2.modeling.box_regression", Box2BoxTransform=Coder)
    install("mmcv.ops", bbox_overlaps=reference.box_iou)
    install("ultralytics.utils.metrics", box_iou=reference.box_iou)
    for batch in (1, 2):
        x = match.inputs(setup(), part("inputs").COCO_800, batch)
        expected = reference.match_anchors(x.table, x.truth.boxes, x.truth.splits)
        agree(peers.matching()["detectron2"], x, expected)
    x = boxes.inputs(setup())
    for provider in peers.box_iou(setup()).values():
        agree(provider, x, reference.box_iou(x.few, x.anchors))
    agree(peers.encoding()["detectron2"], x, reference.encode_boxes(x.many, x.anchors))
    x = boxes.inputs_to_decode(setup())
    expected = boxes.decode_both_ways(reference.decode_boxes, x)()
    agree(peers.decoding()["detectron2"], x, expected)


def test_peers_are_listed_where_they_can_run() -> None:
    """mmcv's and apex's losses are CUDA kernels without bfloat16; apex loads 16 bytes at a time."""
    peers = part("peers")
    assert set(peers.focal_loss(setup(), 80)) == {"detectron2"}
    assert set(peers.focal_loss(setup(CUDA, torch.bfloat16), 80)) == {"detectron2"}
    assert set(peers.focal_loss(setup(CUDA), 1203)) == {"detectron2", "mmcv"}
    assert set(peers.focal_loss(setup(CUDA, torch.half), 80)) == {"detectron2", "mmcv", "apex"}
    assert peers.softmax_focal_loss(setup()) == {}
    assert set(peers.nms(setup(dtype=torch.half), 0.5)) == {"ultralytics"}


def test_an_unknown_package_is_refused_and_one_that_is_there_is_not(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    peers, main = part("peers"), part("__main__").main
    monkeypatch.setattr(peers, "find_spec", lambda name: None if name == "mmcv" else object())
    assert peers.available() == ("torchvision", "detectron2", "apex", "ultralytics")
    with pytest.raises(SystemExit) as stopped:
        main(["nms", "--provider", "mmcv"])
    assert stopped.value.code == 2
    assert capsys.readouterr().err == (
        "benchmarks: error: provider 'mmcv' is not there; available: focaldet, reference, "
        "torch.compile, torchvision, detectron2, apex, ultralytics\n"
    )
