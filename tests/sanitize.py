"""`python tests/sanitize.py`: the operators' tests under sanitizers.

address: the CPU kernels and, on the host, the CUDA kernels, compiled with AddressSanitizer and
UndefinedBehaviorSanitizer, run the operators' tests. threads: the CPU kernels run on four threads
under ThreadSanitizer (threads.cpp). Each may be named; the default is both.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from simt import build

TESTS = Path(__file__).resolve().parent
# What is compiled, traced or compared with torchvision tests torch and our arithmetic, not memory.
LEFT_OUT = ("compile", "export", "opcheck", "torchvision", "special", "simd")
SELECTED = f"not ({' or '.join(f'test_{name}' for name in LEFT_OUT)})"
CPU_KERNELS = [build.CSRC / "ops.cpp", *sorted(build.CSRC.glob("cpu/*.cpp"))]


def cpu_module(sanitizer: list[str]) -> Path:
    jobs = [(source, sanitizer) for source in (build.CSRC / "module.cpp", *CPU_KERNELS)]
    return build.link("_C.so", jobs, ["-shared", *sanitizer])


def address() -> int:
    """pytest, with a focaldet whose extension is the sanitized one."""
    with tempfile.TemporaryDirectory() as folder:
        ignore = shutil.ignore_patterns("*.so", "__pycache__")
        shutil.copytree(build.ROOT / "focaldet", f"{folder}/focaldet", ignore=ignore)
        shutil.copy(cpu_module(build.ADDRESS), f"{folder}/focaldet/_C.so")
        environment = build.address_environment()
        # `python -m` puts the working folder first, and with it this focaldet; -s, since a
        # sanitizer that ends the process would leave its report in pytest's hands.
        command = [sys.executable, "-m", "pytest", "-qs", "-m", "not slow", "-k", SELECTED]
        return subprocess.run([*command, TESTS / "ops"], cwd=folder, env=environment).returncode


def threads() -> int:
    """The program of threads.cpp, which also must notice the race that it can plant."""
    flags = build.RACES
    sources = [TESTS / "threads.cpp", *CPU_KERNELS]
    program = build.link("threads", [(source, flags) for source in sources], flags)
    # GCC's ThreadSanitizer wants addresses where kernels did not randomise so widely put them.
    fixed = ["setarch", "-R"] if shutil.which("setarch") else []
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TSAN_OPTIONS": "halt_on_error=1"}
    planted = subprocess.run(
        [*fixed, program, "race"], env=environment, capture_output=True, text=True
    )
    if planted.returncode == 0 or "data race" not in planted.stderr:
        print(f"the planted race was not reported\n{planted.stderr}")
        return 1
    return subprocess.run([*fixed, program], env=environment).returncode


def main() -> int:
    checks = {"address": address, "threads": threads}
    wanted = sys.argv[1:] or list(checks)
    if unknown := set(wanted) - set(checks):
        print(f"sanitize: expected {' or '.join(checks)}, got {', '.join(sorted(unknown))}")
        return 2
    try:
        failed = [name for name in wanted if checks[name]() != 0]
    except build.Unavailable as reason:
        print(f"sanitize: {reason}")
        return 2
    print(f"sanitize: {', '.join(failed) if failed else 'nothing'} failed")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
