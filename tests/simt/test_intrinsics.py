"""Each function that the kernels may take from CUDA, against plain Python."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from operator import and_, or_, xor

import pytest
import torch

from simt import build
from simt.kernels import Kernels

pytestmark = pytest.mark.simt
LANES = range(32)


@pytest.fixture(scope="module", params=["switch", "ucontext"])
def intrinsics(request: pytest.FixtureRequest, compiled: None) -> Kernels:
    """With fibers that change as they do on x86-64, and as they do elsewhere."""
    ours = build.SIMT / "intrinsics.cu"
    if request.param == "ucontext":
        return Kernels(build.library("focaldet_ucontext", [ours], machine=["-DSIMT_UCONTEXT"]))
    return Kernels(build.library("focaldet_intrinsics", [ours]))


def answers(x: list[int]) -> list[list[int]]:
    """By question of ask_the_warp, by lane."""

    def everyone(value: int) -> list[int]:
        return [value] * 32

    def taken(source: Callable[[int], int]) -> list[int]:
        return [x[source(lane)] for lane in LANES]

    ballot = sum(1 << lane for lane in LANES if x[lane] % 3 == 0)
    low, high = x[:16], x[16:]
    return [
        taken(lambda lane: 3),
        taken(lambda lane: lane // 8 * 8 + (lane + 1) % 8),
        taken(lambda lane: lane - 2 if lane >= 2 else lane),
        taken(lambda lane: lane - 3 if lane % 16 >= 3 else lane),
        taken(lambda lane: lane + 5 if lane + 5 < 32 else lane),
        taken(lambda lane: lane + 5 if lane % 16 + 5 < 16 else lane),
        taken(lambda lane: lane ^ 9),
        taken(lambda lane: lane ^ 9 if (lane ^ 9) < lane // 8 * 8 + 8 else lane),
        everyone(ballot - (1 << 32) if ballot >> 31 else ballot),
        everyone(1),
        everyone(0),
        everyone(1),
        everyone(0),
        everyone(sum(x)),
        everyone(min(x)),
        everyone(max(x)),
        everyone(reduce(and_, x)),
        everyone(reduce(or_, x)),
        everyone(reduce(xor, x)),
        [sum(low)] * 16 + [high[i ^ 1] for i in range(16)],
        [value.bit_count() for value in x],
        [32 - value.bit_length() for value in x],
        [(value & -value).bit_length() for value in x],
    ]


@pytest.mark.parametrize("values", [list(range(1, 33)), [(7 * i * i + 5) % 301 for i in LANES]])
def test_a_warp(values: list[int], intrinsics: Kernels) -> None:
    got = intrinsics.call("warp", torch.tensor(values, dtype=torch.int32)).tolist()
    for question, (ours, expected) in enumerate(zip(got, answers(values), strict=True)):
        assert ours == expected, f"answer {question} of ask_the_warp"


def test_shared_memory_and_atomics(intrinsics: Kernels) -> None:
    blocks = torch.randint(0, 1000, (7, 96), dtype=torch.int32)
    sums = blocks.sum(1).tolist()
    start = torch.tensor([5, 1 << 30, 0, -1, 0] + [0] * 7, dtype=torch.int32)  # of the five totals
    got = intrinsics.call("memory", blocks.flatten(), start).tolist()
    totals = [5 + sum(sums), min(sums), max(sums), reduce(and_, sums), reduce(or_, sums)]
    assert got == totals + [7 * total + 7 * 96 for total in sums]


def test_blocks_that_wait_for_each_other(intrinsics: Kernels) -> None:
    values = torch.tensor([7, 1, 30, 25, 1, 5, 900], dtype=torch.int32)
    sums = values.cumsum(0)
    expected = torch.where(sums < 64, sums, -sums)  # no thread has the number of the others
    assert torch.equal(intrinsics.call("chain", values), expected.int())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_types(dtype: torch.dtype, intrinsics: Kernels) -> None:
    """Every value, the ties between neighbours and what is near them, rounded as torch does."""
    every = torch.arange(-(1 << 15), 1 << 15, dtype=torch.int32).to(torch.int16).view(dtype).float()
    every = every[every.isfinite()]
    between = (every[1:] + every[:-1]) / 2
    values = torch.cat([every, between, between * (1 + 1e-6), between * (1 - 1e-6)])
    values = values[: len(values) // 128 * 128]
    got = intrinsics.call("half", values, dtype == torch.bfloat16)
    assert torch.equal(got, values.to(dtype).float())
