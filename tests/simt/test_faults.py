"""The machine notices what it is there for: each mistake of faults.cu, planted on purpose, and in
the real kernels every barrier that is taken away."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
import torch

from simt import build
from simt.kernels import Kernels

pytestmark = pytest.mark.simt

# What is said of each kernel of faults.cu; in braces the text of the line that it must point at.
SAID = {
    "missing_syncthreads": r"reads byte \d+ of shared tile in .* at {2 * tile}, which nobody has",
    "missing_syncwarp": r"reads byte \d+ of shared tile in .* at {2 * tile}, which nobody has",
    "race_in_shared_memory": r"race: writes byte 0 of shared factor in .* at {factor[0] = 2}, "
    r"which block 0, thread 0 has written in .* at {factor[0] = 2} with nothing to order them",
    "race_with_a_reader": r"race: reads byte \d+ of shared tile in .* at {const float neighbour}, "
    r"which block 0, thread \d+ has written in .* at {= 2 * neighbour}",
    "race_with_another_warp": r"thread 0: race: writes byte 0 of shared factor in .* at "
    r"{factor[0] = 3}, which block 0, thread \d+ has read in .* at {factor[0] * in}",
    "race_with_an_atomic": r"race: reads byte 0 of shared count in .* at {count[0] > 0}, which "
    r"block 0, thread 63 has written in .* at {atomicAdd}",
    "race_between_blocks": r"block 1, thread 0: race: writes global memory in .* at {out[kFault}, "
    r"which block 0, thread 0 has written in .* at {out[kFault}",
    "write_past_shared_memory": r"writes byte 256 of shared tile, which has 256, .* at {+ kFault]}",
    "a_wait_for_a_later_block": r"deadlock of 64 threads: block 0, thread 0 in a wait for another "
    r"thread at {__nanosleep}; block 0, thread 1 in __syncthreads",
    "a_wait_without_a_ticket": r"deadlock of 128 threads: block 2, thread 0 in a wait for another "
    r"thread at {__nanosleep}",
    "missing_wait": "run gives other bits under seed 2 than under 0",
    "a_value_beside_its_flag": r"race: reads global memory in .* at {factors[ticket - 1]}, which "
    r"block 0, thread 0 has written in .* at {factors[ticket] =}",
    "a_flag_read_as_data": r"race: reads global memory in .* at {words[ticket - 1]}, which block "
    r"0, thread 0 has written in .* at {atomicExch}",
    "uninitialised_output": "run gives other bits under seed 1 than under 0",
    "uninitialised_shared_memory": r"reads byte 4 of shared tile in .* at {2 * tile}, which nobody",
    "divergent_barrier": r"thread 32: __syncthreads at {__syncthreads}, while thread 0 waits in "
    r"that at {__syncthreads}",
    "barrier_that_some_never_reach": r"thread 5: leaves the kernel, while thread 0 waits in "
    r"__syncthreads at {__syncthreads}",
    "shuffle_from_an_inactive_lane": r"__shfl_sync at {__shfl} reads lane 16, which is not in its",
    "lane_outside_its_mask": r"__shfl_xor_sync at {__shfl} by lane 16, which is not in its mask",
    "masks_that_differ": r"__any_sync at {__any} with mask ffffffff, while __any_sync at {__any} "
    r"with mask 55555555 waits",
    "deadlock": r"deadlock of 64 threads: block 0, thread 0 in __syncthreads at {__syncthreads}; "
    r"block 0, thread 1 in __syncwarp at {__syncwarp}",
    "result_of_the_schedule": "run gives other bits under seed 1 than under 0",
    "too_much_shared_memory": r"tile takes shared memory to 49156 bytes",
}
# Those that AddressSanitizer and UndefinedBehaviorSanitizer see.
SANITIZED = {
    "write_past_shared_memory": r"heap-buffer-overflow[\s\S]*WRITE of size[\s\S]*{+ kFault]}",
    "write_past_the_output": r"heap-buffer-overflow[\s\S]*WRITE of size[\s\S]*{thread_count()]}",
    "undefined_behaviour": r"{1u <<}:\d+: runtime error: shift exponent 32",
}


def pattern(kernel: str, said: str) -> str:
    """What is said, with the places where the lines in braces stand within the kernel."""
    lines = (build.SIMT / "faults.cu").read_text().splitlines()
    start = next(i for i, line in enumerate(lines) if f"__global__ void {kernel}(" in line)
    body = range(start, lines.index("}", start))

    def place(braces: re.Match[str]) -> str:
        numbers = [str(i + 1) for i in body if braces[1] in lines[i]]
        assert numbers, f"no line of {kernel} has {braces[1]}"
        return rf"faults\.cu:(?:{'|'.join(numbers)})\b"

    return re.sub(r"\{(.*?)\}", place, said)


def test_every_fault_is_expected() -> None:
    source = (build.SIMT / "faults.cu").read_text()
    planted = re.findall(r"^  FAULT(?:_OF_BLOCKS)?\((\w+)\)", source, re.M)
    assert planted and set(planted) == {*SAID, *SANITIZED}


@pytest.fixture(scope="module")
def faults(compiled: None) -> Kernels:
    return Kernels(build.library("focaldet_faults", [build.SIMT / "faults.cu"]))


@pytest.mark.parametrize("kernel", SAID)
def test_a_fault_is_reported_with_its_places(kernel: str, faults: Kernels) -> None:
    values = torch.arange(192.0)
    faults.call("run", kernel, False, values)
    with pytest.raises(
        (RuntimeError, AssertionError), match=pattern(kernel, SAID[kernel])
    ) as caught:
        faults.call("run", kernel, True, values)
    if caught.type is RuntimeError:
        assert str(caught.value).startswith(f"simt: {kernel}<true> at faults.cu:")
    faults.call("run", kernel, False, values)  # the machine goes on


def run_sanitized(kernel: str, fault: bool) -> subprocess.CompletedProcess[str]:
    library = build.library("focaldet_faults", [build.SIMT / "faults.cu"], build.ADDRESS)
    code = (
        f"import torch; torch.ops.load_library({str(library)!r}); "
        f"torch.ops.focaldet_faults.run({kernel!r}, {fault}, torch.ones(192))"
    )
    command = [sys.executable, "-c", code]
    return subprocess.run(
        command,
        env=build.address_environment(fake_stacks=True),
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.slow
@pytest.mark.parametrize("kernel", SANITIZED)
def test_a_fault_is_reported_by_the_sanitizers(kernel: str, compiled: None) -> None:
    right, wrong = run_sanitized(kernel, False), run_sanitized(kernel, True)
    said = pattern(kernel, SANITIZED[kernel])
    assert right.returncode == 0, right.stderr
    assert wrong.returncode != 0 and re.search(said, wrong.stderr), wrong.stderr


def barriers() -> list[str]:
    """All of csrc/cuda, as file:line."""
    return [
        f"{source.name}:{number}"
        for source in sorted(build.CSRC.glob("cuda/*.cu*"))
        for number, line in enumerate(source.read_text().splitlines(), start=1)
        if re.search(r"^ *__sync(threads|warp)\(\);|\b__syncthreads_or\(", line)
    ]


@pytest.mark.parametrize("barrier", barriers())
def test_no_barrier_of_the_kernels_can_go(barrier: str, simt_kernels: Kernels) -> None:
    selection = barrier.startswith(("block_sort", "candidates", "postprocess", "radix_select"))
    run = run_postprocess if selection else run_everything
    run(simt_kernels)
    with pytest.raises((RuntimeError, AssertionError), match="simt: "):
        with simt_kernels.without(barrier):
            run(simt_kernels)


def run_everything(kernels: Kernels) -> None:
    """Inputs that keep more than one tile, warp and stage of every kernel busy."""
    boxes = torch.rand(1300, 2).mul(2000).repeat(1, 2) + torch.tensor([0.0, 0.0, 30.0, 30.0])
    kernels.call("nms", boxes, torch.rand(1300), 0.5)
    groups = torch.arange(1300) // 3 % 2
    kernels.call("batched_nms", boxes, torch.rand(1300), groups, 0.5)
    few = boxes[:90] / 10, torch.rand(90), groups[:90]
    kernels.call("soft_nms", *few, 0.5, 0.5, 0.1, "linear")
    cells = [-8.0, -8.0, 8.0, 8.0, -4.0, -9.0, 4.0, 9.0]
    kernels.call("generate_anchors", torch.empty(0), cells, [20, 30], [8, 8], 0.5)
    logits, labels = torch.randn(700, 5), torch.randint(-2, 5, (700,))
    kernels.call("sigmoid_focal_loss_sum", logits, labels, 0.25, 2.0, None, None, 0.0, "focal")
    near = boxes[:600] / 10
    truth = near, torch.zeros(600, dtype=torch.int64), torch.tensor([0, 600])
    maps = [torch.randn(1, 6, 20, 30)], [torch.randn(1, 8, 20, 30)]
    rules = 0.5, 0.4, "torchvision", 0.25, 2.0, None, "smooth_l1", 0.1, None, False
    kernels.call("retinanet_loss", *maps, cells, [8, 8], 0.5, *truth, *rules)


def run_postprocess(kernels: Kernels) -> None:
    """A level whose buffer holds more candidates than are sorted at once, and one whose buffer is
    too small."""
    logits = torch.full((1, 3 * 27, 72, 72), -9.0, dtype=torch.float64)
    logits.view(-1)[torch.randperm(logits.numel())[:4150]] = torch.rand(4150).double()
    levels = [logits, torch.randn(1, 3 * 27, 4, 5).double()]
    deltas = [torch.zeros(1, 3 * 4, *level.shape[2:]).double() for level in levels]
    cells = [-8.0, -8.0, 8.0, 8.0] * 6
    rules = torch.tensor([[576, 576]]), 0.05, 100, 0.5, 5, False
    kernels.call("retinanet_postprocess", levels, deltas, cells, [8, 8, 144, 128], 0.0, *rules)
