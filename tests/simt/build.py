"""Compiles the CUDA kernels for the host: csrc/cuda/*.cu as C++, with the machine they run on.

A library is built once for each state of its sources, into build/simt (or a temporary folder, where
the sources may not be written beside), and goes when it has not been used for a week.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shlex
import shutil
import subprocess
import sysconfig
import tempfile
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[2]
SIMT = ROOT / "tests" / "simt"
CSRC = ROOT / "csrc"
WEEK = 7 * 24 * 3600  # seconds
TORCH = Path(torch.__file__).parent
MACHINE = [SIMT / f"{name}.cpp" for name in ("runtime", "races", "report", "torch_shim")]

# As setup.py, since what the compiler may do to the arithmetic decides about the bits.
ARITHMETIC = "-std=c++17 -ffp-contract=off -fno-math-errno -fno-trapping-math".split()
FLAGS = [
    *ARITHMETIC,
    # -g1: lines and no variables, at a third of the time where sanitizers check every access.
    *"-O1 -g1 -fPIC -fvisibility=hidden -march=native -Wall -Wextra -Wno-unknown-pragmas".split(),
    *("-DUSE_CUDA", "-DTORCH_TARGET_VERSION=0x020a000000000000"),
    *('-DFOCALDET_VERSION="test"', f'-DFOCALDET_TORCH="{torch.__version__}"'),
    '-DFOCALDET_CUDA_ARCHS="8.0;9.0"',
    *("-isystem", f"{TORCH}/include", "-isystem", sysconfig.get_paths()["include"]),
]
# Headers that stand for those of CUDA, and how operators register there.
STANDINS = f"-I{SIMT / 'include'}"
REGISTRATION = ["-include", f"{SIMT / 'include' / 'registration.h'}"]
# The compiler announces accesses to memory, to races.cpp.
RACES = [
    "-fsanitize=thread",
    "-Wno-maybe-uninitialized",  # with a sanitizer, GCC sees some in the C++ library
]
ADDRESS = [
    "-fsanitize=address,undefined",
    "-fno-sanitize-recover=undefined",
    RACES[-1],
]


class Unavailable(Exception):
    """Why nothing can be compiled here."""


@cache
def compiler() -> tuple[str, ...]:
    """GCC, whose instrumentation races.cpp answers to, with the binutils that report.cpp asks."""
    if not CSRC.is_dir():
        raise Unavailable("the C++ sources are not beside the tests")
    if shutil.which("addr2line") is None:
        raise Unavailable("no addr2line (binutils)")
    for command in (os.environ.get("CXX", "c++"), "g++"):
        words = tuple(shlex.split(command))
        if words and shutil.which(words[0]) and " __clang__" not in predefined(words):
            return words
    raise Unavailable("no GCC; tests on simt need it")


@cache
def predefined(words: tuple[str, ...]) -> str:
    """The compiler's macros: its version and, since the code is for this very processor, that."""
    command = [*words, "-march=native", "-dM", "-E", "-xc++", os.devnull]
    return subprocess.run(command, capture_output=True, text=True).stdout


def address_environment(fake_stacks: bool = False) -> dict[str, str]:
    """For a Python whose extensions are built with ADDRESS: the sanitizers must come first, and the
    C++ library before their first exception. Python itself frees little at its end. Fake stacks
    show a use after return, at 3 MB for every thread of a kernel."""
    names = ("libasan.so", "libubsan.so", "libstdc++.so.6")
    found = [
        subprocess.run([*compiler(), f"-print-file-name={n}"], capture_output=True, text=True)
        for n in names
    ]
    return {
        **os.environ,
        "LD_PRELOAD": " ".join(done.stdout.strip() for done in found),
        # Memory is poisoned, so that what nobody wrote is seen in the CPU kernels' results, too.
        "ASAN_OPTIONS": "detect_leaks=0:max_malloc_fill_size=1073741824:malloc_fill_byte=254:"
        f"detect_stack_use_after_return={int(fake_stacks)}",
        "UBSAN_OPTIONS": "print_stacktrace=1",
    }


def sanitized() -> bool:
    """Whether this process was started in address_environment."""
    return "libasan" in os.environ.get("LD_PRELOAD", "")


def cuda_kernels() -> Path:
    """The operators of csrc/cuda as torch.ops.focaldet_simt, on CPU tensors; with ADDRESS in a
    process that is `sanitized`."""
    sanitizer = ADDRESS if sanitized() else RACES
    return library("focaldet_simt", sorted(CSRC.glob("cuda/*.cu")), sanitizer, [CSRC / "ops.cpp"])


def library(
    namespace: str,
    kernels: Iterable[Path],
    sanitizer: Sequence[str] = RACES,
    host: Sequence[Path] = (),
    machine: Sequence[str] = (),
) -> Path:
    """Kernels, the machine (with these flags) and host sources, where the namespace focaldet has
    another name."""
    own = [STANDINS, f"-Dfocaldet={namespace}", *machine]
    whole = [] if sanitizer == RACES else sanitizer  # the machine's own memory is no race's
    jobs = [(source, ["-xc++", *own, *sanitizer]) for source in kernels]
    jobs += [(source, [*own, *REGISTRATION, *whole]) for source in host]
    jobs += [(source, [*own, *whole]) for source in MACHINE]
    return link(f"{namespace}.so", jobs, ["-shared", "-Wl,-Bsymbolic", *whole])


def link(name: str, jobs: Sequence[tuple[Path, list[str]]], flags: Sequence[str]) -> Path:
    """What the linker makes of these sources, each compiled with flags of its own."""
    key = repr((jobs, flags, FLAGS, predefined(compiler()), torch.__version__)).encode()
    files = {f for source, _ in jobs for f in source.parent.glob("*.*")}
    files |= {f for root in (CSRC, SIMT) for f in root.rglob("*.*")}
    for source in sorted(files):
        if source.suffix in (".h", ".cpp", ".cu", ".cuh"):
            key += source.name.encode() + source.read_bytes()
    scratch = Path(tempfile.gettempdir(), f"focaldet-{os.getuid()}")
    base = ROOT / "build" if os.access(ROOT, os.W_OK) else scratch
    folder = base / "simt" / hashlib.sha256(key).hexdigest()[:16]
    target = folder / name
    if target.exists():
        folder.touch()
        return target
    folder.mkdir(parents=True, exist_ok=True)
    for other in folder.parent.iterdir():
        if time.time() - other.stat().st_mtime > WEEK:
            shutil.rmtree(other, ignore_errors=True)
    with open(folder / "lock", "w") as lock:  # whoever comes second waits, and finds it built
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not target.exists():
            make(target, jobs, flags)
    return target


def make(target: Path, jobs: Sequence[tuple[Path, list[str]]], flags: Sequence[str]) -> None:
    with tempfile.TemporaryDirectory(dir=target.parent) as work:
        objects = [f"{work}/{i}.o" for i in range(len(jobs))]

        def compiled(job: tuple[Path, list[str]], to: str) -> None:
            source, own = job
            run([*compiler(), *FLAGS, *own, "-c", str(source), "-o", to])

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(compiled, jobs, objects))
        libraries = [f"-L{TORCH}/lib", f"-Wl,-rpath,{TORCH}/lib", "-ltorch_cpu", "-lc10", "-ldl"]
        made = f"{work}/{target.name}"
        run([*compiler(), *objects, *flags, "-o", made, *libraries])
        os.replace(made, target)  # whole or not at all


def run(command: Sequence[str]) -> None:
    # Preloaded sanitizers are the tests' business: the compiler takes twice its time under them.
    environment = {k: v for k, v in os.environ.items() if k != "LD_PRELOAD"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    # A compiler of the future may warn of more: that is for CI to see.
    if done.returncode != 0 or ("warning:" in done.stderr and os.environ.get("CI")):
        raise RuntimeError(f"{' '.join(command)}\n{done.stderr}")
