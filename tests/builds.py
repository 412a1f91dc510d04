"""`python tests/builds.py`: every way to build and install, each from a fresh clone in an
environment of its own, with and without a CUDA toolkit or a compiler on PATH. Half an hour on two
cores; names choose some. Prints what each took, and fails where one does not end as it must.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
USE = (
    "import torch, focaldet; "
    "boxes = torch.tensor([[0, 0, 9, 9], [1, 1, 9, 9], [20, 20, 29, 29.0]]); "
    "assert focaldet.ops.nms(boxes, torch.tensor([0.5, 0.9, 0.7]), 0.5).tolist() == [1, 2]; "
    "print(focaldet.cuda_reason or 'CUDA kernels for ' + focaldet._C_cuda.archs)"
)


@dataclass(frozen=True)
class Way:
    """Commands in the clone, with the environment's python, pip and uv; and what is said then."""

    commands: tuple[str, ...]
    environment: dict[str, str] = field(default_factory=dict)
    toolkit: bool = True  # may nvcc be on PATH?
    says: str = ""  # in what importing it says, or in the last line where `fails`
    fails: bool = False


CPU = {"FOCALDET_CUDA": "0"}
LEFT_OUT = "built without CUDA"
WAYS = {
    "pip": Way(("pip install .",), {"TORCH_CUDA_ARCH_LIST": "9.0"}, says="CUDA kernels for 9.0"),
    "pip without nvcc": Way(("pip install .",), toolkit=False, says=LEFT_OUT),
    "pip, nvcc fetched": Way(
        ("pip install .",),
        {"FOCALDET_CUDA": "1", "TORCH_CUDA_ARCH_LIST": "8.0+PTX"},
        toolkit=False,
        says="CUDA kernels for 8.0+PTX",
    ),
    "editable": Way(("pip install -e .",), CPU, says=LEFT_OUT),
    "sdist": Way(
        ("pip install build", "python -m build --sdist", "pip install dist/focaldet-*.tar.gz"),
        CPU,
        says=LEFT_OUT,
    ),
    "build": Way(
        ("pip install build", "python -m build", "pip install dist/focaldet-*.whl"),
        CPU | {"MAX_JOBS": "1"},
        says=LEFT_OUT,
    ),
    "uv": Way(("pip install uv", "uv pip install ."), CPU, says=LEFT_OUT),
    "no compiler": Way(
        ("pip install .",),
        CPU | {"CXX": "/no/such/c++"},
        says="focaldet: no C++ compiler (/no/such/c++); install g++ or clang++, or set CXX",
        fails=True,
    ),
}


def main() -> int:
    names = sys.argv[1:] or list(WAYS)
    if unknown := set(names) - WAYS.keys():
        print(f"expected some of {', '.join(WAYS)}; not {', '.join(unknown)}")
        return 2
    problems = [name for name in names if not built(name, WAYS[name])]
    print(f"failed: {', '.join(problems)}" if problems else "all ended as they must")
    return int(bool(problems))


def built(name: str, way: Way) -> bool:
    """Goes this way, and prints how long it took and what came of it."""
    with tempfile.TemporaryDirectory(prefix="focaldet-build-") as folder:
        # Not "focaldet": Python, started beside it, would take the clone for the package.
        clone, env = f"{folder}/source", f"{folder}/env"
        subprocess.run(["git", "clone", "-q", str(ROOT), clone], check=True)
        subprocess.run([sys.executable, "-m", "venv", env], check=True)
        variables = variables_of(way, env)
        started = time.monotonic()
        for command in way.commands:
            done = run(command, clone, variables)
            if done.returncode != 0:
                break
        seconds = round(time.monotonic() - started)
        output = done.stdout + done.stderr
        if done.returncode == 0:
            # Elsewhere, as users would: in the clone Python finds the sources first.
            used = subprocess.run(
                [f"{env}/bin/python", "-c", USE], cwd=folder, capture_output=True, text=True
            )
            said = (used.stdout + used.stderr).strip()
            right = used.returncode == 0 and not way.fails and way.says in said
        else:
            said = next((line for line in output.splitlines() if way.says in line), output[-3000:])
            right = way.fails and way.says in output and "Traceback" not in output
    print(f"{name}: {seconds} s: {said.strip()}", flush=True)
    return right


def variables_of(way: Way, env: str) -> dict[str, str]:
    kept = {
        k: v for k, v in os.environ.items() if not re.match("FOCALDET_CUDA|CUDA_HOME|TORCH_", k)
    }
    path = [f"{env}/bin", *os.environ["PATH"].split(os.pathsep)]
    if not way.toolkit:
        path = [folder for folder in path if not Path(folder, "nvcc").exists()]
    return kept | way.environment | {"PATH": os.pathsep.join(path), "VIRTUAL_ENV": env}


def run(command: str, folder: str, variables: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, shell=True, cwd=folder, env=variables, capture_output=True, text=True
    )


if __name__ == "__main__":
    sys.exit(main())
