"""Every SIMD level gives the same bits; FOCALDET_SIMD forces one."""

import os
import subprocess
import sys

import pytest

import focaldet

LEVELS = ("scalar", "avx2", "avx512")
AVAILABLE = LEVELS[: LEVELS.index(focaldet._C.simd_level) + 1]

PROGRAM = """
import hashlib
import torch
from focaldet import AnchorGrid, _C, ops

def digest(*tensors):
    code = hashlib.sha256()
    for tensor in tensors:
        code.update(tensor.contiguous().numpy().tobytes())
    return code.hexdigest()

draw = torch.Generator().manual_seed(0)
logits = torch.randn(700, 7, generator=draw) * 12
labels = torch.randint(-2, 7, (700,), generator=draw)
soft = torch.rand(700, 7, generator=draw)
for gamma in (0.0, 1.0, 2.0, 3.7):
    for targets in (labels, soft):
        x = logits.clone().requires_grad_()
        loss = ops.sigmoid_focal_loss(x, targets, gamma=gamma)
        total = ops.sigmoid_focal_loss(x, targets, gamma=gamma, reduction="sum")
        (grad,) = torch.autograd.grad(total, x)
        # The general power of a soft target is the platform's logarithm: same bits all the same.
        print("focal_loss", digest(loss.detach(), total.detach(), grad))
corner = torch.rand(900, 2, generator=draw) * 300
boxes = torch.cat([corner, corner + torch.rand(900, 2, generator=draw) * 80], 1)
scores = torch.rand(900, generator=draw).mul(64).floor() / 64
print("nms", digest(ops.nms(boxes, scores, 0.4)))
print("box_iou", digest(ops.box_iou(boxes, boxes)))
deltas = torch.randn(900, 4, generator=draw) * 2
print("decode_boxes", digest(ops.decode_boxes(deltas, boxes)))
sizes = [(40, 40), (20, 20), (10, 10), (5, 5), (3, 3)]
anchors = AnchorGrid.torchvision().at(sizes, (320, 320))
splits = torch.tensor([0, 15, 15, 40])
print("match_anchors", digest(ops.match_anchors(anchors, boxes[:40], splits)))
cls = [torch.randn(2, 9 * 3, h, w, generator=draw) * 2 - 3 for h, w in sizes]
box = [torch.randn(2, 9 * 4, h, w, generator=draw) / 3 for h, w in sizes]
image_sizes = torch.tensor([[300, 320], [320, 280]])
print("postprocess", digest(*ops.retinanet_postprocess(cls, box, anchors, image_sizes)))
print("level", _C.simd_level)
"""


def run(level: str) -> subprocess.CompletedProcess:
    environment = {**os.environ, "FOCALDET_SIMD": level}
    command = [sys.executable, "-c", PROGRAM]
    return subprocess.run(command, env=environment, capture_output=True, text=True, cwd="/")


def test_every_level_gives_the_same_bits():
    results = {}
    for level in AVAILABLE:
        done = run(level)
        assert done.returncode == 0, done.stderr
        *lines, last = done.stdout.splitlines()
        assert last == f"level {level}"
        results[level] = lines
    for level, lines in results.items():
        assert lines == results["scalar"], f"{level} differs from scalar"


@pytest.mark.parametrize("level", ["sse9", "AVX2"])
def test_an_unknown_level_is_named(level):
    done = run(level)
    assert done.returncode != 0
    message = done.stderr.strip().splitlines()[-1]
    assert f"FOCALDET_SIMD={level}: expected scalar, avx2 or avx512" in message
