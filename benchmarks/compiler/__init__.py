"""`python -m benchmarks.compiler`: what nvcc made of the CUDA kernels.

Writes registers, memory and the widths of global accesses of every kernel in the built extension
into benchmarks/results/compiler/kernels.json, and renders them with the bound on occupancy into
docs/kernels/compiled.md. `--check` changes nothing, and exits with 1 if a kernel uses local memory,
does not move 16 bytes at a time where it is meant to, or is no longer what those files say.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import focaldet

from .. import ROOT, tables
from ..sources import csrc_sha256
from ..tables import read, stop
from .cubin import RESERVED, Kernel, capability, measure
from .loops import H100, bound

RESULT = ROOT / "benchmarks" / "results" / "compiler" / "kernels.json"
DOCS = ROOT / "docs" / "kernels" / "compiled.md"
RERUN = "build, and run `python -m benchmarks.compiler`"

# The kernels that are meant to move 16 bytes at a time (Pack in csrc/cuda/launch.cuh).
PACKED = {
    "focal_elements": ("loads", "stores"),
    "focal_partial_sums": ("loads",),
    "lay_out": ("loads", "stores"),
    "write_anchors": ("stores",),
    "map_focal": ("loads",),
    "suppress_tiles": ("loads",),
    "collect_candidates": ("loads",),
    "rank_and_decode": ("stores",),
    "gather_detections": ("loads", "stores"),
    "iou_of_pairs": ("loads", "stores"),
    "box_by_box": ("loads", "stores"),
}


class Processor(NamedTuple):
    """What a streaming multiprocessor (SM) holds at once."""

    warps: int
    blocks: int
    shared: int  # KB


# By compute capability: CUDA C++ Programming Guide, "Technical Specifications per Compute
# Capability".
PROCESSORS = {
    80: Processor(64, 32, 164),
    86: Processor(48, 16, 100),
    89: Processor(48, 24, 100),
    90: Processor(64, 32, 228),
    100: Processor(64, 32, 228),
    120: Processor(48, 24, 100),
}
PARTITIONS, PARTITION = 4, 16384  # of an SM; 32-bit registers in each


# Judging ----------------------------------------------------------------------------------------


def occupancy(kernel: Kernel) -> tuple[int, str] | None:
    """The threads that an SM holds at most, and what bounds them ("" where all of its warps fit).

    As cuda_occupancy.h of the CUDA toolkit computes it: a partition gives its registers to warps by
    256, and shared memory goes to blocks by 128 bytes.
    """
    processor = PROCESSORS.get(capability(kernel.arch))
    if processor is None or kernel.block is None:
        return None
    warps = -(-kernel.block // 32)
    registers_per_warp = -(-32 * kernel.registers // 256) * 256
    shared_per_block = -(-(kernel.shared + RESERVED) // 128) * 128
    blocks = {
        "block size": min(processor.warps // warps, processor.blocks),
        "registers": PARTITIONS * (PARTITION // registers_per_warp) // warps,
        "shared memory": processor.shared * 1024 // shared_per_block,
    }
    bound = min(blocks, key=blocks.get)
    return blocks[bound] * kernel.block, bound if blocks[bound] * warps < processor.warps else ""


def findings(kernels: Sequence[Kernel]) -> Iterator[str]:
    """What is wrong whatever the compiler."""
    for kernel in kernels:
        title = f"{kernel.name}, {kernel.arch}"
        if kernel.stack or kernel.local:
            yield f"{title}: {kernel.stack} bytes of stack, {kernel.local} local-memory accesses"
        for way in PACKED.get(kernel.template, ()):
            if getattr(kernel, way)[0] == 0:
                yield f"{title}: none of its global {way} moves 16 bytes"
    for template in sorted(PACKED.keys() - {kernel.template for kernel in kernels}):
        yield f"{template}: there is no such kernel, but PACKED in {Path(__file__).name} names it"


def drift(kernels: Sequence[Kernel], committed: Sequence[Kernel]) -> Iterator[str]:
    now, then = ({(k.name, k.arch): asdict(k) for k in side} for side in (kernels, committed))
    for key in sorted(now.keys() | then.keys()):
        title = ", ".join(key)
        if key not in then:
            yield f"{title}: new; {RERUN}"
        elif key not in now:
            yield f"{title}: gone; {RERUN}"
        elif changed := [n for n in now[key] if now[key][n] != then[key][n]]:
            changes = ", ".join(f"{n} {then[key][n]} became {now[key][n]}" for n in changed)
            yield f"{title}: {changes}; {RERUN}"


def check(facts: dict[str, Any], kernels: Sequence[Kernel]) -> list[str]:
    """One line for each thing that is wrong."""
    old, committed = load()
    problems = list(findings(kernels))
    text = read(DOCS)
    if inserted(text, old, committed) != text:
        problems.append(f"{DOCS} does not say what {RESULT} says; {RERUN}")
    if facts["csrc_sha256"] != old["csrc_sha256"]:
        problems.append(f"{RESULT} was made from another csrc; {RERUN}")
    elif toolchain(facts) == toolchain(old):
        problems += drift(kernels, committed)
    else:
        print(f"figures not compared: here {toolchain(facts)}, in {RESULT} {toolchain(old)}")
    return problems


# Reporting --------------------------------------------------------------------------------------


def toolchain(facts: dict[str, Any]) -> str:
    return f"nvcc {facts['nvcc']} for {' / '.join(facts['archs'])}"


def summary(kernels: Sequence[Kernel]) -> str:
    registers = max(kernel.registers for kernel in kernels)
    threads = [bounded[0] for bounded in map(occupancy, kernels) if bounded]
    residency = f"{min(threads):,} to {max(threads):,} threads per SM, " if threads else ""
    names = {kernel.name for kernel in kernels}
    local = {kernel.name for kernel in kernels if kernel.stack or kernel.local}
    return (
        f"{len(names)} kernels, at most {registers} registers, {residency}"
        f"{len(local) or 'none'} with spills, a stack frame or local-memory instructions"
    )


def render(facts: dict[str, Any], kernels: Sequence[Kernel]) -> str:
    """A row for each kernel."""
    lines = [
        f"{toolchain(facts)}; csrc `{facts['csrc_sha256'][:12]}`. {summary(kernels)}.",
        "",
        "| kernel | registers | shared | block | threads per SM | bound by | loads | stores |",
        "|---|---:|---:|---:|---:|---|---:|---:|",
    ]
    rows: dict[str, list[list[str]]] = {}
    for kernel in kernels:
        rows.setdefault(kernel.name, []).append(cells(kernel))
    lines[1:1] = ["", *issue_bounds(kernels)]
    for name, by_arch in rows.items():
        merged = (c[0] if len(set(c)) == 1 else " / ".join(c) for c in zip(*by_arch, strict=True))
        lines.append(f"| `{name}` | {' | '.join(merged)} |")
    return "\n".join(lines)


def issue_bounds(kernels: Sequence[Kernel]) -> list[str]:
    """What the instructions of the loss on raw maps allow on a GPU of the newest architecture."""
    newest = max((kernel.arch for kernel in kernels), key=capability)
    of = {kernel.name: kernel for kernel in kernels if kernel.arch == newest and kernel.loop}
    lines = []
    for dtype, logits in (("float", 4), ("bfloat16", 8)):
        for kind in (
            "map_focal<{}, gamma 2, loss and gradient>",
            "map_focal<{}, any gamma, loss and gradient>",
        ):
            if kernel := of.get(kind.format(dtype)):
                lines.append(
                    f"| `{kernel.name}` | {kernel.loop} | {kernel.loop / logits:.0f} "
                    f"| {bound(kernel.loop):.0%} |"
                )
    if not lines:
        return []
    return [
        f"Instructions in the {newest} code on the way of a pack of background (16 bytes of logits "
        "read, 16 of gradient written), and the share of a device copy's bandwidth "
        f"({H100.copy / 1e12:g} TB/s on an {H100.name}) that issuing them allows, with every "
        "scheduler busy at boost clock.",
        "",
        "| kernel | instructions per pack | per logit | of the copy's bandwidth, at most |",
        "|---|---:|---:|---:|",
        *lines,
        "",
    ]


def cells(kernel: Kernel) -> list[str]:
    block = "" if kernel.block is None else f"{kernel.block:,}"
    threads, bound = occupancy(kernel) or (None, "")
    return [
        str(kernel.registers),
        f"{kernel.shared:,}",
        block,
        "" if threads is None else f"{threads:,}",
        bound,
        *(", ".join(map(str, counts)) for counts in (kernel.loads, kernel.stores)),
    ]


def inserted(text: str, facts: dict[str, Any], kernels: Sequence[Kernel]) -> str:
    return tables.replace(text, "compiler", lambda: render(facts, kernels), DOCS)


def load() -> tuple[dict[str, Any], list[Kernel]]:
    try:
        result = json.loads(read(RESULT))
    except json.JSONDecodeError as error:
        stop(f"{RESULT}: expected what `python -m benchmarks.compiler` writes ({error})")
    return result["facts"], [Kernel(**fields) for fields in result["kernels"]]


def write(facts: dict[str, Any], kernels: Sequence[Kernel]) -> None:
    """One line for each kernel and architecture, so that a diff can be read."""
    text = inserted(read(DOCS), facts, kernels)
    lines = ",\n  ".join(json.dumps(asdict(kernel)) for kernel in kernels)
    RESULT.write_text(
        f'{{\n "facts": {json.dumps(facts)},\n "kernels": [\n  {lines}\n ]\n}}\n',
        encoding="utf-8",
    )
    DOCS.write_text(text, encoding="utf-8")


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser("python -m benchmarks.compiler", description=__doc__)
    parser.add_argument("--check", action="store_true", help="exit with 1 if something is wrong")
    parser.add_argument("--module", type=Path, metavar="FILE", help="default: focaldet._C_cuda")
    args = parser.parse_args(argv)
    if args.module is None and focaldet._C_cuda is None:
        stop(f"no focaldet._C_cuda: {focaldet.cuda_reason}")
    nvcc, kernels = measure(args.module or Path(focaldet._C_cuda.__file__))
    archs = sorted({kernel.arch for kernel in kernels}, key=capability)
    facts = {"nvcc": nvcc, "archs": archs, "csrc_sha256": csrc_sha256()}
    print(f"{toolchain(facts)}: {summary(kernels)}", flush=True)
    if not args.check:
        write(facts, kernels)
        return 0
    problems = check(facts, kernels)
    for problem in problems:
        print(problem)
    return int(bool(problems))
