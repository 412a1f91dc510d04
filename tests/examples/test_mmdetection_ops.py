"""examples/mmdetection_ops.py against mmdet's own classes, and in a RetinaNet of mmdet's.

mmcv with its compiled operators is a build from source that the newest torch refuses. Beside
mmcv-lite, which has none, stand-ins take their place: for NMS, a few lines over torchvision's; for
the rest, classes that nothing here uses. mmdet itself is the real one.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

for name in ("mmcv", "mmengine", "scipy", "shapely", "torchvision", "mmdet"):  # it imports those
    pytest.importorskip(name, reason=f"{name} is not installed")


def standing_in_for_nms(
    boxes: Tensor, scores: Tensor, idxs: Tensor, nms_cfg: dict[str, Any], _: bool = False
) -> tuple[Tensor, Tensor]:
    import torchvision

    keep = torchvision.ops.batched_nms(boxes, scores, idxs, nms_cfg["iou_threshold"])
    return torch.cat([boxes[keep], scores[keep, None]], dim=1), keep


def nothing(name: str) -> Any:
    if name.startswith("__"):
        raise AttributeError(name)
    return type(name, (torch.nn.Module,), {})


COMPILED = find_spec("mmcv._ext") is not None
compiled = pytest.mark.skipif(not COMPILED, reason="mmcv's operators are not installed")


@pytest.fixture(scope="module", autouse=True)
def _operators() -> Iterator[None]:
    """mmcv's own, or the stand-ins, as long as these tests run."""
    parts = ("nms", "roi_align", "carafe", "merge_cells", "modulated_deform_conv")
    with pytest.MonkeyPatch.context() as patch:
        if not COMPILED:
            mmcv_ops = ModuleType("mmcv.ops")
            mmcv_ops.batched_nms, mmcv_ops.__getattr__ = standing_in_for_nms, nothing
            patch.setitem(sys.modules, "mmcv.ops", mmcv_ops)
            for part in (*parts, "multi_scale_deform_attn"):
                patch.setitem(sys.modules, f"mmcv.ops.{part}", mmcv_ops)
        yield


@pytest.fixture
def recipe(recipe: Callable[[str], ModuleType]) -> ModuleType:
    return recipe("mmdetection_ops")


# The loss ----------------------------------------------------------------------------------------


def losses(pred: Tensor, *arguments: Any, **settings: Any) -> list[list[Tensor]]:
    """Value and gradient, of theirs and of ours."""
    from mmdet.registry import MODELS

    override = settings.pop("override", None)
    found = []
    for name in ("FocalLoss", "FocaldetFocalLoss"):
        leaf = pred.detach().requires_grad_()
        value = MODELS.build({"type": name, **settings})(leaf, *arguments, override)
        found.append([value.detach(), torch.autograd.grad(value.sum(), leaf)[0]])
    return found


WEIGHTS = {
    "none": lambda: None,
    "mask": lambda: (torch.rand(60) < 0.8).double(),
    "by row": lambda: torch.rand(60, dtype=torch.float64),
    "by element": lambda: torch.rand(60, 7, dtype=torch.float64),
    "flat": lambda: torch.rand(420, dtype=torch.float64),
}


@pytest.mark.parametrize("weight", WEIGHTS)
@pytest.mark.parametrize("one_hot", [False, True])
@pytest.mark.parametrize("reduction, avg_factor", [("mean", 5.0), ("mean", None), ("sum", None)])
def test_losses_and_gradients(
    recipe: ModuleType, weight: str, one_hot: bool, reduction: str, avg_factor: float | None
) -> None:
    pred, target = torch.randn(60, 7, dtype=torch.float64), torch.randint(0, 8, (60,))
    if one_hot:
        target = torch.nn.functional.one_hot(target, 8)[:, :7]
    settings = {"reduction": reduction, "loss_weight": 1.5, "gamma": 1.5, "alpha": 0.4}
    theirs, ours = losses(pred, target, WEIGHTS[weight](), avg_factor, **settings)
    torch.testing.assert_close(ours, theirs)


def test_by_element(recipe: ModuleType) -> None:
    pred, target = torch.randn(60, 7, dtype=torch.float64), torch.randint(0, 8, (60,))
    mask = WEIGHTS["mask"]()
    theirs, ours = losses(pred, target, mask, None, override="none")
    torch.testing.assert_close(ours, theirs)
    with pytest.raises(ValueError, match="avg_factor can not be used with"):
        losses(pred, target, None, 3.0, override="sum")


def test_probabilities_and_no_rows(recipe: ModuleType) -> None:
    probabilities, target = torch.rand(60, 7), torch.randint(0, 8, (60,))
    theirs, ours = losses(probabilities, target, None, 5.0, activated=True)
    torch.testing.assert_close(ours, theirs)
    none = torch.zeros(0, 7), torch.zeros(0, dtype=torch.int64)
    theirs, ours = losses(*none, torch.zeros(0), 5.0)
    torch.testing.assert_close(ours, theirs)


def test_bfloat16(recipe: ModuleType) -> None:
    """Theirs sums in bfloat16, so that both are compared with float64 of the same numbers."""
    pred, target = (torch.randn(60, 7) - 3).bfloat16(), torch.randint(0, 8, (60,))
    exact = losses(pred.double(), target, None, 5.0)[0][0]
    theirs, ours = (loss.double() for loss, _ in losses(pred, target, None, 5.0))
    torch.testing.assert_close(ours, exact, rtol=1e-5, atol=0)
    assert (theirs - exact).abs() > (ours - exact).abs()


# The assigner ------------------------------------------------------------------------------------


def random_boxes(n: int, largest: int = 60) -> Tensor:
    corner = (torch.rand(n, 2) * 200).round()
    return torch.cat([corner, corner + (torch.rand(n, 2) * largest).round() + 4], dim=1)


def assigned(settings: dict[str, Any], priors: Tensor, boxes: Tensor, ignore: Any = None) -> Any:
    from mmdet.registry import TASK_UTILS
    from mmengine.structures import InstanceData

    labels = torch.arange(len(boxes)) % 7
    return [
        TASK_UTILS.build({"type": name, **settings}).assign(
            InstanceData(priors=priors),
            InstanceData(bboxes=boxes, labels=labels),
            None if ignore is None else InstanceData(bboxes=ignore),
        )
        for name in ("MaxIoUAssigner", "FocaldetMaxIoUAssigner")
    ]


RETINANET = {"pos_iou_thr": 0.5, "neg_iou_thr": 0.4, "min_pos_iou": 0, "ignore_iof_thr": -1}


@pytest.mark.parametrize("boxes", [0, 1, 20])
@pytest.mark.parametrize("low_quality", [True, False])
def test_matches(recipe: ModuleType, boxes: int, low_quality: bool) -> None:
    settings = RETINANET | {"match_low_quality": low_quality}
    theirs, ours = assigned(settings, random_boxes(500), random_boxes(boxes))
    assert torch.equal(ours.gt_inds, theirs.gt_inds) and torch.equal(ours.labels, theirs.labels)
    assert ours.num_gts == boxes and ours.max_overlaps is None
    if boxes == 20 and low_quality:
        assert set(ours.gt_inds.sign().tolist()) == {-1, 0, 1}


@pytest.mark.parametrize(
    "changes",
    [
        {"min_pos_iou": 0.3},
        {"gt_max_assign_all": False},
        {"neg_iou_thr": (0.1, 0.4)},
        {"ignore_iof_thr": 0.5},
    ],
    ids=str,
)
def test_what_needs_the_matrix_is_handed_on(recipe: ModuleType, changes: dict[str, Any]) -> None:
    settings = RETINANET | changes
    theirs, ours = assigned(settings, random_boxes(300), random_boxes(9), random_boxes(3, 150))
    assert torch.equal(ours.gt_inds, theirs.gt_inds)
    assert torch.equal(ours.max_overlaps, theirs.max_overlaps)


def test_a_box_that_overlaps_no_anchor(recipe: ModuleType) -> None:
    """The difference that the recipe documents."""
    far = torch.tensor([[900.0, 900.0, 950.0, 950.0]])
    theirs, ours = assigned(RETINANET, random_boxes(50), far)
    assert theirs.gt_inds.eq(1).all() and ours.gt_inds.eq(0).all()


# NMS ---------------------------------------------------------------------------------------------

CONFIGS = [
    {"type": "nms", "iou_threshold": 0.5},
    {"type": "nms", "iou_threshold": 0.3, "class_agnostic": True},
    {"type": "nms", "iou_threshold": 0.5, "score_threshold": 0.4, "max_num": 30},
    {"type": "nms", "iou_threshold": 0.5, "split_thr": 100},
    {"type": "nms", "iou_threshold": 0.5, "offset": 1},  # handed on
    {"type": "soft_nms", "iou_threshold": 0.3, "min_score": 0.05},
    {"type": "soft_nms", "iou_threshold": 0.3, "method": "gaussian", "sigma": 0.4},
    {"type": "soft_nms", "iou_threshold": 0.3, "method": "naive"},  # handed on
    None,
]


@compiled
@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_nms(recipe: ModuleType, config: dict[str, Any] | None) -> None:
    from mmdet.models.dense_heads import base_dense_head

    boxes, scores = random_boxes(300), torch.randperm(300) / 300
    arguments = boxes, scores, torch.randint(0, 6, (300,)), config
    theirs = base_dense_head.batched_nms(*arguments)
    with recipe.accelerate_nms() as swap:
        assert "mmdet.models.dense_heads.base_dense_head.batched_nms" in swap.replaced
        ours = base_dense_head.batched_nms(*arguments)
    assert 0 < len(ours[1]) <= 300 and torch.equal(ours[1], theirs[1])
    # soft_nms multiplies scores in an order of its own.
    torch.testing.assert_close(ours[0], theirs[0], rtol=1e-5, atol=0)


# The whole ---------------------------------------------------------------------------------------


def retinanet(loss: str, assigner: str) -> torch.nn.Module:
    from mmdet.registry import MODELS
    from mmengine.config import ConfigDict

    convolutions = {"num_classes": 6, "in_channels": 8, "stacked_convs": 1, "feat_channels": 8}
    anchors = {
        "type": "AnchorGenerator",
        "octave_base_scale": 4,
        "scales_per_octave": 3,
        "ratios": [0.5, 1.0, 2.0],
        "strides": [8, 16, 32],
    }
    importlib.import_module("mmdet.models")
    torch.manual_seed(0)
    return MODELS.build(
        ConfigDict(
            {
                "type": "RetinaHead",
                **convolutions,
                "anchor_generator": anchors,
                "bbox_coder": {"type": "DeltaXYWHBBoxCoder"},
                "loss_cls": {"type": loss, "use_sigmoid": True, "gamma": 2.0, "alpha": 0.25},
                "loss_bbox": {"type": "L1Loss"},
                "train_cfg": {
                    "assigner": {"type": assigner, **RETINANET},
                    "sampler": {"type": "PseudoSampler"},
                    "allowed_border": -1,
                    "pos_weight": -1,
                },
                "test_cfg": {
                    "nms_pre": 100,
                    "score_thr": 0.01,
                    "nms": {"type": "nms", "iou_threshold": 0.5},
                    "max_per_img": 50,
                },
            }
        )
    )


def test_in_a_head_of_retinanet(recipe: ModuleType) -> None:
    """Losses, gradients and detections of two images, the second of which has no boxes."""
    from mmdet.structures import DetDataSample
    from mmengine.structures import InstanceData

    features = [torch.randn(2, 8, size, size) for size in (16, 8, 4)]
    samples = []
    for n in (9, 0):
        shape = {"img_shape": (128, 128), "pad_shape": (128, 128), "scale_factor": (1.0, 1.0)}
        sample = DetDataSample(metainfo=shape | {"batch_input_shape": (128, 128)})
        boxes = random_boxes(n) * 0.45
        sample.gt_instances = InstanceData(bboxes=boxes, labels=torch.arange(n) % 6)
        samples.append(sample)

    def run(head: torch.nn.Module) -> tuple[list[Tensor], list[Tensor]]:
        found = head.loss(features, samples)
        total = [sum(found["loss_cls"]), sum(found["loss_bbox"])]
        parameters = [p for p in head.parameters() if p.requires_grad]
        gradients = torch.autograd.grad(sum(total), parameters)
        with torch.no_grad():
            found = head.predict(features, samples)
        detections = [t for each in found for t in (each.bboxes, each.scores, each.labels)]
        return [*total, *gradients], detections

    losses, detections = run(retinanet("FocalLoss", "MaxIoUAssigner"))
    with recipe.accelerate_nms():
        ours, found = run(retinanet("FocaldetFocalLoss", "FocaldetMaxIoUAssigner"))
    torch.testing.assert_close(ours, losses, rtol=1e-4, atol=1e-6)
    assert len(found[0]) > 5
    torch.testing.assert_close(found, detections)


@compiled
def test_the_script_runs(recipe: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    recipe.main()
    printed = capsys.readouterr().out
    assert "gradients agree" in printed and "of 2000 boxes kept" in printed
