"""What type checkers are told: the stubs are what the modules have, and wrong uses are refused."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import stubs
import torch

import focaldet
from focaldet import torch_ops

ROOT = Path(__file__).parents[1]
STUBS = ROOT / "focaldet"
pytestmark = pytest.mark.skipif(not STUBS.exists(), reason="the source folder is not here")

START = """
import torch
from focaldet import AnchorGrid, ops, torch_ops
from focaldet.models import RetinaNet

x, labels = torch.zeros(3, 2), torch.zeros(3, dtype=torch.int64)
boxes, scores, splits = torch.zeros(3, 4), torch.zeros(3), torch.zeros(2, dtype=torch.int64)
anchors = AnchorGrid.paper().at([(1, 1)] * 5, (8, 8))
""".splitlines()
WRONG = {  # a use, and what mypy must say of it
    'ops.sigmoid_focal_loss(x, labels, reduction="men")': "\"Literal['men']\"; expected",
    "ops.sigmoid_focal_loss(x, labels, 0.25, 2.0, 'sum', torch.ones(2))": "Too many positional",
    "ops.sigmoid_focal_loss(x, labels, alpha='0.25')": '"str"; expected "float | Tensor"',
    "ops.nms(boxes, 0.5)": 'Missing positional argument "scores"',
    "ops.nms(boxes, scores, 0.5).keep": '"Tensor" has no attribute "keep"',
    "ops.match_anchors(anchors, boxes, splits, low_quality='mmdetection')": "\"Literal['mmdetect",
    "ops.match_anchors(AnchorGrid.paper(), boxes, splits)": '"AnchorGrid"; expected "Anchors | ',
    "ops.soft_nms(boxes, scores, method='gauss')": "Literal['gauss']",
    "ops.generate_anchors(anchors)[0].x": "no attribute",
    "a, b = ops.retinanet_loss([x], [x], anchors, boxes, labels, splits)": "Too many values",
    "ops.retinanet_loss([x], [x], anchors, boxes, labels, splits, box_loss='iou')": "Literal['iou'",
    "ops.retinanet_loss([x], [x], anchors, boxes, labels, splits, mode='save')": "Literal['save']",
    "boxes, counts = ops.retinanet_postprocess([x], [x], anchors, splits)": "Too many values",
    "torch_ops.nms(boxes, 0.5, scores)": 'incompatible type "float"; expected "Tensor"',
    "torch_ops.soft_nm(boxes)": 'Module has no attribute "soft_nm"',
    "RetinaNet(3, loss='focl')": "Literal['focl']",
    "RetinaNet(3).forward([x], [{'boxes': boxes, 'labels': 3}])": 'expected "str": "Tensor"',
    "RetinaNet(3).detect(x, labels).box": '"Detections" has no attribute "box"',
}


@pytest.fixture(scope="module")
def mypy(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., list[str]]:
    """Runs mypy by the project's configuration; returns its lines."""
    api = pytest.importorskip("mypy.api", reason="mypy is not installed")
    cache = tmp_path_factory.mktemp("mypy")

    def run(*words: str) -> list[str]:
        configuration = ("--config-file", str(ROOT / "pyproject.toml"))
        out, err, _ = api.run([*configuration, "--cache-dir", str(cache), *words])
        assert not err, err
        return out.splitlines()

    return run


def test_the_stub_of_the_operators_is_what_their_schemas_say() -> None:
    assert (STUBS / "torch_ops.pyi").read_text() == stubs.render() + "\n", (
        "run: python tests/stubs.py"
    )


def test_the_typed_operators_are_those_of_torch() -> None:
    assert torch_ops is torch.ops.focaldet


@pytest.mark.parametrize("name", ["_C", "_C_cuda"])
def test_the_stubs_of_the_modules_have_what_the_modules_have(name: str) -> None:
    module = getattr(focaldet, name)
    if module is None:
        pytest.skip(f"no {name} here: {focaldet.cuda_reason}")
    stub = (STUBS / f"{name}.pyi").read_text()
    typed = dict(re.findall(r"^(\w+): (\w+)$", stub, re.MULTILINE))
    there = {k: type(v).__name__ for k, v in vars(module).items() if not k.startswith("_")}
    assert typed == there


@pytest.mark.slow
def test_uses_of_the_public_api_are_accepted(mypy: Callable[..., list[str]]) -> None:
    assert mypy(str(ROOT / "tests" / "types" / "uses.py"))[-1].startswith("Success")


@pytest.mark.slow
def test_wrong_uses_are_refused(mypy: Callable[..., list[str]], tmp_path: Path) -> None:
    file = tmp_path / "wrong.py"
    file.write_text("\n".join([*START, *WRONG]) + "\n")
    first = len(START) + 1
    said = {}
    for line in mypy(str(file)):
        if found := re.match(r".*wrong\.py:(\d+): error: (.*)", line):
            said.setdefault(int(found[1]), found[2])
    for number, (use, message) in enumerate(WRONG.items(), first):
        assert message in said.pop(number, "nothing"), use
    assert not said, "the lines above the uses are right"


@pytest.mark.slow
def test_the_public_types_are_complete() -> None:
    pytest.importorskip("pyright", reason="pyright is not installed")
    words = [sys.executable, "-m", "pyright", "--verifytypes", "focaldet", "--ignoreexternal"]
    # pyright asks Python for its folders, and knows no editable installs.
    environment = {**os.environ, "PYTHONPATH": str(Path(focaldet.__file__).parents[1])}
    done = subprocess.run(
        words, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300
    )
    if "Type completeness score" not in done.stdout:
        pytest.skip(f"pyright does not run here: {(done.stdout + done.stderr)[-200:]}")
    assert "Type completeness score: 100%" in done.stdout, done.stdout
