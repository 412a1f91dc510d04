"""What cuobjdump says of the kernels in an extension module: their resources and their code (SASS).

The compiler's decisions are in the binary, so that no build log and no GPU is needed.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path

from ..tables import stop
from .loops import shortest_loop

RESERVED = 1024  # bytes of shared memory per block, from sm_80 on
# Template arguments in words, and the flags of a kernel in their order.
WORDS = {
    "BFloat16": "bfloat16",
    "Half": "float16",
    "IntegerPower<2>": "gamma 2",
    "RealPower<float, AnyFraction>": "any gamma",
    "RealPower<double, AnyFraction>": "any gamma",
}
HARD = {"true": "hard labels", "false": "any targets"}
WITH_GRADIENT = {"true": "loss and gradient", "false": "loss"}
FLAGS = {
    "focal_elements": (HARD, {"true": "gradient", "false": "loss"}),
    "focal_partial_sums": (HARD, WITH_GRADIENT),
    "map_boxes": (WITH_GRADIENT,),
    "map_focal": (WITH_GRADIENT,),
}


@dataclass(frozen=True)
class Kernel:
    """A kernel as compiled for one architecture. Instructions are counted as they stand in its
    code, not as they run."""

    name: str
    arch: str
    registers: int  # per thread
    stack: int  # bytes per thread: spilled registers, arrays with an index known at run time
    local: int  # instructions that access the stack
    shared: int  # bytes per block, without what a launch adds
    block: int | None  # threads at most, as __launch_bounds__ promises
    loads: list[int]  # from global memory, of 16, 8, 4 and fewer bytes
    stores: list[int]
    loop: int  # on the shortest way round a loop that stores 16 bytes; 0: there is none

    @property
    def template(self) -> str:
        return self.name.partition("<")[0]


def measure(module: Path) -> tuple[str, list[Kernel]]:
    """The version of nvcc, and the kernels by name and architecture."""
    dump = output_of(("cuobjdump",), "-elf", "-res-usage", "-sass", str(module))
    kernels = list(parse(dump))
    if not kernels:
        stop(f"{module}: no kernels in it")
    symbols = "\n".join(kernel.name for kernel in kernels)
    names = output_of(("c++filt", "cu++filt"), "-p", stdin=symbols).splitlines()
    named = [replace(k, name=readable(name)) for k, name in zip(kernels, names, strict=True)]
    return compiler(dump), sorted(named, key=lambda k: (k.name, capability(k.arch)))


def parse(dump: str) -> Iterator[Kernel]:
    """The kernels, by their symbols. Of each cubin come the sections, then the resources of all
    functions, then the code of each."""
    for cubin in dump.split("Fatbin elf code:")[1:]:
        arch = re.search(r"arch = (\w+)", cubin)[1]
        blocks = {}
        for section in re.split(r"^\.nv\.info\.", cubin, flags=re.MULTILINE)[1:]:
            if bounds := re.search(r"EIATTR_MAX_THREADS\s.*\s.*(0x\w+) (0x\w+) (0x\w+)", section):
                x, y, z = (int(side, 16) for side in bounds.groups())
                blocks[section.partition("\n")[0]] = x * y * z
        codes = dict(part.split("\n", 1) for part in cubin.split("Function : ")[1:])
        usage = re.findall(r"Function (\S+):\s+REG:(\d+) STACK:(\d+) SHARED:(\d+)", cubin)
        for symbol, registers, stack, shared in usage:
            accesses = re.findall(r"((?:LD|ST)[GL])\b([.\w]*)", codes[symbol])
            # From sm_90 on the figure includes the reserved memory.
            reserved = RESERVED if capability(arch) >= 90 else 0
            yield Kernel(
                name=symbol,
                arch=arch,
                registers=int(registers),
                stack=int(stack),
                local=sum(op in ("LDL", "STL") for op, _ in accesses),
                shared=max(int(shared) - reserved, 0),
                block=blocks.get(symbol),
                loads=widths(suffix for op, suffix in accesses if op == "LDG"),
                stores=widths(suffix for op, suffix in accesses if op == "STG"),
                loop=shortest_loop(codes[symbol]),
            )


def widths(suffixes: Iterable[str]) -> list[int]:
    """How many move 16, 8, 4 and fewer bytes: LDG.E.128, LDG.E.64, LDG.E, LDG.E.U16."""
    counts = [0, 0, 0, 0]
    for parts in (suffix.split(".") for suffix in suffixes):
        narrow = any(part in ("U8", "S8", "U16", "S16") for part in parts)
        counts[0 if "128" in parts else 1 if "64" in parts else 3 if narrow else 2] += 1
    return counts


def capability(arch: str) -> int:
    return int(re.sub(r"\D", "", arch))  # sm_90a is 90


def compiler(dump: str) -> str:
    if exact := re.search(r"Tool Version: .* V([\d.]+)", dump):
        return exact[1]
    # Before CUDA 13 a cubin says no more than toolkit=129.
    return ".".join(re.search(r"toolkit=(\d+)(\d)", dump).groups())


def readable(demangled: str) -> str:
    """The template without namespaces, its arguments in words."""
    name = re.sub(r"\(anonymous namespace\)::|\b\w+::", "", demangled)
    for argument, word in WORDS.items():
        name = name.replace(argument, word)
    for words in FLAGS.get(name.partition("<")[0], ()):
        name = re.sub("true|false", lambda flag, words=words: words[flag[0]], name, count=1)
    return name


def output_of(tools: Sequence[str], *arguments: str, stdin: str = "") -> str:
    """What the first of the tools that is here prints."""
    tool = next(filter(None, map(find_tool, tools)), None)
    if tool is None:
        stop(f"no {' or '.join(tools)} on PATH, in CUDA_HOME or in triton")
    done = subprocess.run([tool, *arguments], input=stdin, capture_output=True, text=True)
    if done.returncode != 0:
        stop(" ".join(done.stderr.split()))
    return done.stdout


def find_tool(name: str) -> str | None:
    """On PATH, in CUDA_HOME, or in triton, which comes with torch for CUDA and has its own."""
    folders = [os.environ.get("PATH", os.defpath)]
    if home := os.environ.get("CUDA_HOME"):
        folders.append(f"{home}/bin")
    if triton := find_spec("triton"):
        folders += [f"{root}/backends/nvidia/bin" for root in triton.submodule_search_locations]
    return shutil.which(name, path=os.pathsep.join(folders))
