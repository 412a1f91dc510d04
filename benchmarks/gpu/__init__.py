"""`bash benchmarks/gpu.sh`: one command for a machine with a GPU, of ten minutes at most.

Builds the extension for the card, runs the tests marked cuda, checks the kernels with
compute-sanitizer and times the operators, without a network. What a step gave is kept in build/gpu/
by kernel sources, GPU and torch, and a step that passed is not run again. All that is there goes
into one file, which `python -m benchmarks.tables` renders into the pages.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from .. import ROOT
from ..__main__ import Parser
from ..report import layout
from ..sources import csrc_sha256
from . import outcomes
from .steps import FAILED, RAN_OUT, CannotRun, Command, Parts, Reader, Step

# Seconds for each step, under ten minutes together. The build's are for two cores.
LIMITS = {
    "build": 150,
    "tests": 130,
    "memcheck": 45,
    "racecheck": 75,
    "initcheck": 45,
    "float32": 75,
    "bfloat16": 75,
}
OURS = ("--kernel-name", "kns=focaldet")  # the namespace is part of the kernels' mangled names
# memcheck and racecheck leave torch's kernels alone. initcheck must see what those write, or it
# would take it for uninitialized; outcomes.py tells its reports apart.
SANITIZERS = {
    "memcheck": (*OURS, "--report-api-errors", "no"),
    "racecheck": OURS,
    "initcheck": ("--check-api-memory-access", "no"),
}
# Races are between blocks and threads: what shares memory does not depend on more than the size.
SANITIZED_DTYPES = {"racecheck": ("float32", "bfloat16")}
DTYPES = ("float32", "bfloat16")
WORKERS = 4
PACKAGES = ("setuptools", "numpy", "pytest", "hypothesis")
PARTS, RESULTS = ROOT / "build" / "gpu", ROOT / "benchmarks" / "results" / "gpu"


def main(argv: Sequence[str] | None = None) -> int:
    parser = make_parser()
    args = parser.parse_args(argv)
    parser.check("step", args.again, tuple(LIMITS))
    if args.json and not args.json.resolve().parent.is_dir():
        parser.error(f"--json {args.json}: expected a file in a folder that exists")
    if reason := missing():
        parser.error(reason)

    here, csrc = machine(), csrc_sha256()
    gpu = slug(here["gpu"])
    parts = Parts(PARTS / f"{csrc[:12]}-{gpu}-torch-{here['torch']}")
    target = args.json or RESULTS / f"{gpu}.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    print(f"{here['gpu']}, torch {here['torch']}; logs in {parts.folder}", flush=True)
    for step in steps(here):
        kept = None if step.name in args.again else parts.finished(step)
        part = kept or parts.renew(step)
        age = "kept" if kept else f"{part['seconds']:.0f} s"
        print(f"{step.name:<10}{age:>6}  {outcomes.described(part)}", flush=True)
        found = {name: there for name in LIMITS if (there := parts.of(name))}
        result = {"machine": here, "csrc_sha256": csrc, "steps": found}
        target.write_text(layout(result) + "\n", encoding="utf-8")
    return int(any(part["status"] in (FAILED, RAN_OUT) for part in found.values()))


def make_parser() -> Parser:
    parser = Parser("benchmarks/gpu.sh", description=__doc__)
    parser.add_argument(
        "--again",
        action="append",
        default=[],
        metavar="STEP",
        help=f"run this step again though it passed; may be repeated: {', '.join(LIMITS)}",
    )
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="default: benchmarks/results/gpu/<the GPU>.json"
    )
    return parser


# The machine ------------------------------------------------------------------------------------


def missing() -> str:
    """What this machine lacks, in one line. (nvcc is for setup.py to look for, and to miss.)"""
    try:
        import torch
    except ImportError:
        return "there is no torch here; install a CUDA build of torch>=2.10"
    if torch.__version__ < (2, 10):
        return f"torch {torch.__version__} is too old; install a CUDA build of torch>=2.10"
    if torch.version.cuda is None:
        return f"torch {torch.__version__} is CPU only; install a CUDA build of it"
    if not torch.cuda.is_available():
        return f"there is no GPU here: torch {torch.__version__} sees none"
    absent = [name for name in PACKAGES if find_spec(name) is None]
    if shutil.which("ninja", path=search_path()) is None:
        absent.append("ninja")
    return f"not installed: {', '.join(absent)}" if absent else ""


def machine() -> dict[str, Any]:
    import torch

    gpu = torch.cuda.get_device_properties(0)
    return {
        "gpu": gpu.name,
        "capability": f"{gpu.major}.{gpu.minor}",
        "driver": driver(),
        "cuda": torch.version.cuda,
        "torch": str(torch.__version__),
        "python": platform.python_version(),
    }


def driver() -> str:
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(query, capture_output=True, text=True, check=True).stdout.split()[0]
    except (OSError, subprocess.CalledProcessError, IndexError):
        return "unknown"


def search_path() -> str:
    """PATH, behind the programs of this Python environment, which need not be active."""
    return os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])


def slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


# The steps --------------------------------------------------------------------------------------


def steps(here: dict[str, Any]) -> list[Step]:
    environment = {
        "PATH": search_path(),
        "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),
        "PYTHONUNBUFFERED": "1",  # so that a stopped step's log is whole
        "TORCH_CUDA_ARCH_LIST": here["capability"],
        "FOCALDET_CUDA": "1",
    }

    def after_build(name: str, command: Command, read: Reader, **more: str) -> Step:
        return Step(name, LIMITS[name], command, read, environment | more, needs="build")

    return [
        Step(
            "build",
            LIMITS["build"],
            build,
            outcomes.build,
            environment,
            still_holds=lambda part: part["extensions"] == outcomes.extensions(),
        ),
        after_build("tests", pytest, outcomes.tests),
        # Without torch's cache every tensor is an allocation, whose bounds the tools know.
        *(
            after_build(
                tool,
                partial(sanitize, tool),
                outcomes.sanitizer,
                PYTORCH_NO_CUDA_MEMORY_CACHING="1",
            )
            for tool in SANITIZERS
        ),
        *(after_build(dtype, partial(benchmark, dtype), outcomes.benchmarks) for dtype in DTYPES),
    ]


def python(*arguments: str) -> list[str]:
    return [sys.executable, *arguments]


def build(_: Path) -> list[str]:
    """In place: nothing is installed, and a build that was stopped keeps the objects it has."""
    return python("setup.py", "build_ext", "--inplace")


def pytest(result: Path) -> list[str]:
    """In parallel, where pytest-xdist is installed."""
    options = ["-q", "-p", "no:cacheprovider", f"--junitxml={result}"]
    options += ["-n", str(WORKERS)] if find_spec("xdist") else []
    folders = ("tests/ops", "tests/models", "tests/integrations")
    return python("-m", "pytest", *options, "-m", "cuda", *folders)


def sanitize(tool: str, _: Path) -> list[str]:
    folders = [f"{home}/bin"] if (home := os.environ.get("CUDA_HOME")) else []
    program = shutil.which("compute-sanitizer", path=os.pathsep.join([*folders, search_path()]))
    if program is None:
        raise CannotRun("no compute-sanitizer on PATH or in CUDA_HOME")
    return [
        *(program, "--tool", tool, *SANITIZERS[tool]),
        *("--launch-timeout", "0", "--print-limit", "0", "--show-backtrace", "device"),
        *("--error-exitcode", str(outcomes.FOUND)),
        *python("-m", "benchmarks.gpu.subset", *SANITIZED_DTYPES.get(tool, ())),
    ]


def benchmark(dtype: str, result: Path) -> list[str]:
    """All but torch.compile, which takes longer to compile than everything else to run."""
    names = ["focaldet", "reference", *(["torchvision"] if find_spec("torchvision") else [])]
    providers = [word for name in names for word in ("--provider", name)]
    options = ("--device", "cuda", "--dtype", dtype, "--rounds", "5", "--json", str(result))
    return python("-m", "benchmarks", *options, *providers)
