"""The worked example of docs/contributing/adding_an_operator.md: compiled, and as its twin says."""

from __future__ import annotations

import importlib
import math
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch
from simt import build
from simt.kernels import Kernels
from torch import Tensor
from torch.utils import cpp_extension

FOLDER = build.ROOT / "examples" / "new_operator"
PAGE = build.ROOT / "docs" / "contributing" / "adding_an_operator.md"
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)

Operator = Callable[[Tensor, Tensor], Tensor]


@pytest.fixture(scope="module")
def example(compiled: None) -> ModuleType:
    if not cpp_extension.is_ninja_available():
        pytest.skip("no ninja, with which torch builds extensions")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(FOLDER)
        return importlib.import_module("centerness")


@pytest.fixture(scope="module")
def kernel(compiled: None) -> Kernels:
    """The CUDA kernel on the host, whose operators have a namespace of their own."""
    name = "focaldet_example_simt"
    library = build.library(
        name,
        [FOLDER / "centerness.cu"],
        host=[FOLDER / "ops.cpp"],
        machine=[
            f"-I{build.CSRC}",
            f"-Dfocaldet_example={name}",
            *("-include", str(build.SIMT / "include" / "registration.h")),
        ],
    )
    return Kernels(library)


@pytest.fixture(params=["cpu", pytest.param("simt", marks=pytest.mark.simt)])
def operator(request: pytest.FixtureRequest, example: ModuleType) -> Operator:
    if request.param == "cpu":
        return example.centerness_targets
    kernel = request.getfixturevalue("kernel")
    return lambda points, boxes: kernel.call("centerness_targets", points, boxes)


def inputs(n: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """Points in and around boxes."""
    corner = torch.rand(n, 2) * 100
    size = 4 + torch.rand(n, 2) * 60
    points = corner + size * (torch.rand(n, 2) * 1.4 - 0.2)
    return points.to(dtype), torch.cat([corner, corner + size], dim=1).to(dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_as_the_reference(operator: Operator, example: ModuleType, dtype: torch.dtype) -> None:
    points, boxes = inputs(1000, dtype)  # more than a block's threads, and than a vector's lanes
    expected = example.reference(points, boxes)
    assert 0.4 < (expected > 0).double().mean() < 0.9
    got = operator(points, boxes)
    assert got.dtype == expected.dtype
    # One unit in the last place: torch's square root on a CPU is not the nearest number (MKL).
    torch.testing.assert_close(got, expected, rtol=torch.finfo(got.dtype).eps, atol=0)


@pytest.mark.simt
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_same_bits_from_both_kernels(
    example: ModuleType, kernel: Kernels, dtype: torch.dtype
) -> None:
    given = inputs(1000, dtype)
    assert torch.equal(
        kernel.call("centerness_targets", *given), example.centerness_targets(*given)
    )


def test_by_hand(operator: Operator) -> None:
    box = [0.0, 0, 8, 4]
    cases = {
        (4.0, 2.0): 1,  # the middle
        (2.0, 2.0): math.sqrt(2 / 6),
        (2.0, 3.0): math.sqrt(2 / 6 * 1 / 3),
        (0.0, 2.0): 0,  # on a side
        (9.0, 2.0): 0,  # outside
        (9.0, 5.0): 0,  # outside along both axes, where two negative ratios would make a positive
        (math.nan, 2.0): 0,
    }
    got = operator(torch.tensor(list(cases)), torch.tensor([box] * len(cases)))
    torch.testing.assert_close(got, torch.tensor([float(value) for value in cases.values()]))


def test_layouts_and_none(operator: Operator) -> None:
    points, boxes = inputs(300)
    expected = operator(points, boxes)
    assert torch.equal(operator(points.T.contiguous().T, boxes.T.contiguous().T), expected)
    shifted = torch.cat([torch.zeros(1), boxes.flatten()])[1:].view(-1, 4)  # off 16 bytes
    assert torch.equal(operator(points, shifted), expected)
    assert operator(points[:0], boxes[:0]).shape == (0,)


def test_either_in_double(operator: Operator, example: ModuleType) -> None:
    points, boxes = inputs(50)
    for mixed in ((points.double(), boxes), (points, boxes.double())):
        got = operator(*mixed)
        torch.testing.assert_close(got, example.reference(*mixed))  # and its dtype


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_opcheck(example: ModuleType, dtype: torch.dtype) -> None:
    torch.library.opcheck(torch.ops.focaldet_example.centerness_targets, inputs(9, dtype))


def test_a_wrong_argument_is_named(example: ModuleType) -> None:
    points, boxes = inputs(3)
    with pytest.raises(TypeError, match="points: expected a floating tensor"):
        example.centerness_targets(points.long(), boxes)
    with pytest.raises(ValueError, match=r"boxes: expected shape \[N, 4\], got \[2, 4\]"):
        example.centerness_targets(points, boxes[:2])
    with pytest.raises(ValueError, match="points gets no gradient"):
        example.centerness_targets(points.requires_grad_(), boxes)


def test_nothing_is_read_out_of_bounds(example: ModuleType, kernel: Kernels) -> None:
    """By those who call the operator without the wrapper."""
    points, boxes = inputs(3)
    for namespace in ("focaldet_example", kernel.namespace):
        raw = getattr(torch.ops, namespace).centerness_targets
        with pytest.raises(RuntimeError, match="one for each point"):
            raw(points, boxes[:2])
        with pytest.raises(RuntimeError, match=r"points must be \[N, 2\]"):
            raw(boxes, boxes)


@pytest.mark.slow
def test_nvcc_takes_the_kernel(example: ModuleType, tmp_path: Path) -> None:
    if shutil.which("nvcc") is None:
        pytest.skip("no nvcc")
    include = [build.CSRC, *cpp_extension.include_paths()]
    command = ["nvcc", *example.NVCC_FLAGS, example.TARGET, *(f"-I{path}" for path in include)]
    command += ["-arch=sm_80", "-c", str(FOLDER / "centerness.cu"), "-o", str(tmp_path / "x.o")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert f"{FOLDER}" not in done.stderr, done.stderr  # no warning of it


def test_the_page_shows_every_file() -> None:
    text = PAGE.read_text()
    for file in FOLDER.iterdir():
        if file.suffix in (".h", ".cpp", ".cu", ".py"):
            assert f'--8<-- "examples/new_operator/{file.name}"\n' in text, file.name
