"""The device "simt" of the operators' tests is what it claims to be."""

from __future__ import annotations

import re

import pytest
import torch

from focaldet import ops, reference
from simt import build
from simt.kernels import Kernels, operators

pytestmark = pytest.mark.simt


def test_kernels_take_the_place_of_the_cpu_and_give_it_back(simt_kernels: Kernels) -> None:
    boxes, scores = torch.rand(9, 4), torch.rand(9)

    def launches() -> int:
        by_name = simt_kernels.launches().items()
        return sum(count for name, count in by_name if name.startswith("suppress_tiles"))

    before = launches()
    ops.nms(boxes, scores, 0.5)
    assert launches() == before
    with simt_kernels.in_place_of_cpu():
        ops.nms(boxes, scores, 0.5)
        assert launches() == before + len(simt_kernels.seeds)
        # Post-processing suppresses with the same kernel.
        logits, deltas = [torch.randn(1, 2, 4, 4)], [torch.zeros(1, 4, 4, 4)]
        anchors = ops.AnchorGrid((((0.0, 0, 9, 9),),), (8,)).at([(4, 4)], (32, 32))
        ops.retinanet_postprocess(logits, deltas, anchors, torch.tensor([[32, 32]]))
        assert launches() == before + 2 * len(simt_kernels.seeds)
    ops.nms(boxes, scores, 0.5)
    assert launches() == before + 2 * len(simt_kernels.seeds)


def test_every_operator_has_a_kernel(simt_kernels: Kernels) -> None:
    assert [name for name in operators() if not simt_kernels.has(name)] == []


def test_an_error_reaches_the_caller(simt: torch.device) -> None:
    with pytest.raises(RuntimeError, match="focaldet: nms: boxes must be"):
        torch.ops.focaldet.nms(torch.rand(3), torch.rand(3), 0.5)


DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def test_every_kernel_runs_in_every_dtype(simt_kernels: Kernels, simt: torch.device) -> None:
    """By name and template arguments: what the other tests reach is what CUDA can launch."""
    x = torch.randn(40, 7)
    labels, soft = torch.randint(-2, 7, (40,)), torch.rand(40, 7)
    boxes, scores = torch.rand(50, 4), torch.rand(50)
    many = torch.rand(2049, 1) * 9000 + torch.tensor([0.0, 0, 1, 1])  # more than a block sorts
    for dtype in DTYPES:
        for gamma in (2.0, 1.5):
            for targets in (labels, soft.to(dtype)):
                logits = x.to(dtype).requires_grad_()
                loss = ops.sigmoid_focal_loss(logits, targets, gamma=gamma)
                loss.backward(torch.ones_like(loss))
                for x_or_leaf in (logits.detach(), logits):
                    ops.sigmoid_focal_loss(x_or_leaf, targets, gamma=gamma, reduction="sum")
        keep = ops.nms(boxes.to(dtype), scores.to(dtype), 0.5)
        assert torch.equal(keep, reference.nms(boxes.to(dtype), scores.to(dtype), 0.5))
        for groups, many_groups in ((None, None), (labels.repeat(2)[:50], torch.arange(len(many)))):
            ops.nms_match(boxes.to(dtype), scores.to(dtype), 0.5, groups)
            ops.nms_match(many.to(dtype), many[:, 0].to(dtype), 0.5, many_groups)
            ops.soft_nms(boxes.to(dtype), scores.to(dtype), idxs=groups)
        head = [torch.randn(1, 3, 4, 4, dtype=dtype)], [torch.randn(1, 4, 4, 4, dtype=dtype)]
        truth = torch.tensor([[4.0, 4, 12, 12]]), torch.tensor([1]), torch.tensor([0, 1])
        for gamma in (2.0, 1.5):
            rules = 0.5, 0.4, "none", 0.25, gamma, None, "giou", 0.0, None, True
            case = *head, [0.0, 0, 8, 8], [8, 8], 0.0, *truth, *rules
            torch.ops.focaldet.retinanet_loss(*case)
            torch.ops.focaldet.retinanet_loss_and_gradient(*case, None, None)
        # More logits than a buffer holds.
        head = [torch.randn(1, n, 20, 20, dtype=dtype) for n in (3, 4)]
        rules = torch.tensor([[16, 16]]), 0.05, 9, 0.5, 3, False
        case = head[:1], head[1:], [0.0, 0, 8, 8], [8, 8], 0.0, *rules
        torch.ops.focaldet.retinanet_postprocess(*case)
        case = x.to(dtype), labels, 0.25, 2.0, None
        torch.ops.focaldet.softmax_focal_loss(*case)
        torch.ops.focaldet.softmax_focal_loss_backward(torch.tensor(1.0), *case)
        for targets in (labels, soft):
            for gamma in (2.0, 1.5):
                case = x.to(dtype), targets, 0.25, gamma, None, None, 0.0, "focal"
                torch.ops.focaldet.sigmoid_focal_loss_sum_and_gradient(*case, None)
        pair = boxes.to(dtype), boxes.to(dtype)
        for function in (ops.box_iou, ops.encode_boxes, ops.decode_boxes):
            function(*pair)
    ops.generate_anchors(ops.AnchorGrid.paper().at([(2, 2)] * 5, (16, 16)))
    ran = set(simt_kernels.launches())
    bounds = r"__launch_bounds__\((?:[^()]|\([^()]*\))*\)\s+(?://.*\s+)?"
    kernel = re.compile(rf"__global__ void (?:{bounds})?(\w+)\(")
    for source in build.CSRC.glob("cuda/*.cu*"):
        for name in kernel.findall(source.read_text()):
            assert any(each.startswith(name) for each in ran), f"{name} of {source.name}"
    for scalar in ("float", "double"):
        for name in ("iou_of_pairs<{}>", "box_by_box<{}, Encode>", "box_by_box<{}, Decode>"):
            assert any(each.startswith(name.format(scalar)) for each in ran), name
    powers = [("double", "RealPower<double, AnyFraction>")]
    for scalar in ("float", "c10::Half", "c10::BFloat16"):
        powers += [(scalar, "RealPower<float, AnyFraction>"), (scalar, "IntegerPower<2>")]
    for scalar, power in powers:
        for labelled in ("true", "false"):
            for gradient in ("true", "false"):
                for kernel in ("focal_elements", "focal_partial_sums"):
                    name = f"{kernel}<{scalar}, {power}, {labelled}, {gradient}>"
                    assert any(each.startswith(name) for each in ran), name
        for gradient in ("true", "false"):
            for name in (f"map_focal<{scalar}, {power}, {gradient}>", f"map_boxes<{scalar}, "):
                assert any(each.startswith(name) for each in ran), name
        for name in (f"collect_candidates<{scalar}>", f"rank_and_decode<{scalar}>"):
            assert any(each.startswith(name) for each in ran), name


@pytest.mark.parametrize(
    "error,said",
    [
        (209, r"has no code for simt \(99\.0\): build in .* pip install \.`\. CUDA: simt: ref"),
        (98, r"has no code for simt \(99\.0\): build in .* pip install \.`\. CUDA: simt: ref"),
        (35, r"is newer than the driver of simt \(99\.0\): .* --no-build-isolation \.`\. CUDA: "),
        (222, r"is newer than the driver of simt \(99\.0\): .* --no-build-isolation \.`\. CUDA: "),
    ],
    ids=["no kernel image", "invalid function", "insufficient driver", "newer PTX"],
)
def test_a_gpu_that_this_build_has_no_code_for(
    error: int, said: str, simt_kernels: Kernels
) -> None:
    boxes = torch.rand(3, 4)
    with simt_kernels.refused(error), pytest.raises(RuntimeError) as raised:
        simt_kernels.call("box_iou", boxes, boxes)
    message = str(raised.value)
    assert re.search(
        r"focaldet: this build \(CUDA 13\.0, architectures 8\.0;9\.0\) " + said, message
    )
    assert "in the source folder with `FOCALDET_CUDA=1 TORCH_CUDA_ARCH_LIST=99.0 pip" in message
    assert "\n" not in message
    with simt_kernels.refused(2), pytest.raises(RuntimeError, match="simt: refused with 2"):
        simt_kernels.call("box_iou", boxes, boxes)
    assert simt_kernels.call("box_iou", boxes, boxes).shape == (3, 3)
