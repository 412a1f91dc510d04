"""An operator of one's own on focaldet's headers: FCOS's centerness targets.

`python examples/new_operator/centerness.py` compiles it and shows its values along a box. See
docs/contributing/adding_an_operator.md for what each file is.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor
from torch.utils import cpp_extension

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
# As setup.py, for the same bits everywhere: no fused multiply-add but the explicit ones.
CXX_FLAGS = ["-O3", "-std=c++17", "-ffp-contract=off", "-fvisibility=hidden"]
NVCC_FLAGS = ["-O3", "-std=c++17", "-fmad=false", "--expt-relaxed-constexpr", "-DUSE_CUDA"]
TARGET = "-DTORCH_TARGET_VERSION=0x020a000000000000"  # torch 2.10's stable ABI


def load() -> None:
    """Compiles what has changed since the last time into build/, and registers the operator."""
    sources = [HERE / "ops.cpp", HERE / "centerness.cpp"]
    if torch.cuda.is_available():
        sources.append(HERE / "centerness.cu")
    folder = ROOT / "build" / "new_operator"
    folder.mkdir(parents=True, exist_ok=True)
    cpp_extension.load(
        "focaldet_example",
        [str(source) for source in sources],
        extra_include_paths=[str(ROOT / "csrc")],
        extra_cflags=[*CXX_FLAGS, TARGET],
        extra_cuda_cflags=[*NVCC_FLAGS, TARGET],
        build_directory=str(folder),
        is_python_module=False,
    )


load()


def centerness_targets(points: Tensor, boxes: Tensor) -> Tensor:
    """The centerness of each point in its box (Tian et al. 2019, equation 3).

    points: [N, 2] (x, y), boxes: [N, 4] [x1, y1, x2, y2], in pixels, any floating dtype. Returns
    [N] in float32 (float64 if either is), between 0 and 1; 0 on a side and outside. Not
    differentiable: these are targets. Raises TypeError or ValueError on other shapes and dtypes.
    """
    for name, value, size in (("points", points, 2), ("boxes", boxes, 4)):
        if not isinstance(value, Tensor) or not value.is_floating_point():
            raise TypeError(f"{name}: expected a floating tensor, got {value!r}")
        if value.dim() != 2 or value.shape[1] != size or value.shape[0] != points.shape[0]:
            raise ValueError(f"{name}: expected shape [N, {size}], got {list(value.shape)}")
        if torch.is_grad_enabled() and value.requires_grad:
            raise ValueError(f"centerness_targets: {name} gets no gradient; pass {name}.detach()")
    return torch.ops.focaldet_example.centerness_targets(points, boxes)


@torch.library.register_fake("focaldet_example::centerness_targets")
def _(points: Tensor, boxes: Tensor) -> Tensor:
    wide = torch.float64 in (points.dtype, boxes.dtype)
    return points.new_empty(points.shape[:1], dtype=torch.float64 if wide else torch.float32)


def reference(points: Tensor, boxes: Tensor) -> Tensor:
    """The same in plain torch, for reading and for tests."""
    dtype = torch.promote_types(torch.float32, torch.promote_types(points.dtype, boxes.dtype))
    points, boxes = points.to(dtype), boxes.to(dtype)
    before, behind = points - boxes[:, :2], boxes[:, 2:] - points
    inside = (before > 0) & (behind > 0)
    balance = torch.minimum(before, behind) / torch.maximum(before, behind)
    return torch.where(inside, balance, 0).prod(dim=1).sqrt()


if __name__ == "__main__":
    across = torch.stack([torch.arange(0.0, 101, 10), torch.full((11,), 25.0)], dim=1)
    print(centerness_targets(across, torch.tensor([[0.0, 0, 100, 50]]).expand(11, 4)))
