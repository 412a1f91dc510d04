"""What a wheel must be before it is released.

`python tests/wheels.py check dist/*.whl` reads it: its tag, what it asks of torch and Python, what
is in it, its size. `python tests/wheels.py try dist/*.whl --torch 2.10.0 2.15.0` installs that very
file beside each torch, in environments of their own, and runs the operators' tests there; `--json`
keeps what came of it, and the next run with the same file adds to it.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
MOST_BYTES = 30_000_000  # with seven architectures and PTX
# torch's own libraries, which no wheel carries.
TORCHS = ("libc10.so", "libtorch.so", "libtorch_cpu.so", "libtorch_cuda.so", "libc10_cuda.so")
# Of a wheel that asks for less than its image gives auditwheel says both, with a dot between.
TAG = r"-cp310-abi3-(manylinux\w+\.)*manylinux_2_\d+_(x86_64|aarch64)\.whl$"
FILES = (
    "focaldet/py.typed",
    "focaldet/recipes/small.toml",
    "focaldet/recipes/coco/paper-r50-800.toml",
)
MODULES = ("focaldet/_C.abi3.so", "focaldet/_C_cuda.abi3.so")
FACTS = """
import json, platform, focaldet, torch
print(json.dumps({"torch": torch.__version__, "cuda": torch.version.cuda,
    "python": platform.python_version(), "built_with_torch": focaldet._C.built_with_torch,
    "cuda_kernels": "loaded" if focaldet._C_cuda else focaldet.cuda_reason}))
"""


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    checking = commands.add_parser("check", help="read the wheel")
    trying = commands.add_parser("try", help="run the operators' tests beside several torches")
    for command in (checking, trying):
        command.add_argument("wheel", type=Path)
    trying.add_argument("--torch", nargs="+", required=True, help="versions; newest: the newest")
    trying.add_argument("--python", default=sys.executable)
    trying.add_argument("--json", type=Path)
    trying.add_argument("--tests", nargs="+", default=["tests/ops", "tests/test_binaries.py"])
    args = parser.parse_args()
    if args.command == "check":
        return check(args.wheel)
    return try_all(args.wheel, args.torch, args.python, args.tests, args.json)


def check(wheel: Path) -> int:
    """Prints what the wheel is, and what is wrong with it."""
    problems = []
    with zipfile.ZipFile(wheel) as archive, tempfile.TemporaryDirectory() as folder:
        names = archive.namelist()
        modules = [archive.extract(name, folder) for name in MODULES if name in names]
        audit = subprocess.run(
            ["torch-abi-audit", "--check", "both", *modules], capture_output=True, text=True
        )
    if len(modules) < len(MODULES):
        problems.append("the CUDA kernels are missing")
    if audit.returncode != 0:
        problems.append(f"torch-abi-audit: {audit.stdout}{audit.stderr}")
    for name in (*FILES, "licenses/LICENSE", "licenses/NOTICE"):
        if not any(entry.endswith(name) for entry in names):
            problems.append(f"{name} is missing")
    strange = [n for n in names if not re.match(r"focaldet(-[\w.]+\.dist-info)?/", n)]
    if strange:
        problems.append(f"also holds {', '.join(strange)}")
    if not re.search(TAG, wheel.name):
        problems.append("its name says no Python from 3.10 on, or no manylinux")
    size = wheel.stat().st_size
    if size > MOST_BYTES:
        problems.append(f"{size:,} bytes are more than {MOST_BYTES:,}")
    print(f"{wheel.name}: {size:,} bytes, sha256 {sha256(wheel)}")
    for problem in problems:
        print(f"  {problem}")
    return int(bool(problems))


def try_all(
    wheel: Path, torches: list[str], python: str, tests: list[str], results: Path | None
) -> int:
    found: dict[str, Any] = {"wheel": wheel.name, "sha256": sha256(wheel), "runs": []}
    if results and results.exists():
        known = json.loads(results.read_text())
        if known["sha256"] == found["sha256"]:
            found = known
    failed = False
    for torch in torches:
        run = try_one(wheel.resolve(), torch, python, tests)
        print(json.dumps(run), flush=True)
        failed |= run["exit"] != 0
        same = (run["torch"], run["python"])
        found["runs"] = [r for r in found["runs"] if (r["torch"], r["python"]) != same] + [run]
        if results:
            results.parent.mkdir(parents=True, exist_ok=True)
            results.write_text(json.dumps(found, indent=1) + "\n")
    return int(failed)


def try_one(wheel: Path, torch: str, python: str, tests: list[str]) -> dict[str, Any]:
    """The facts of an environment with this wheel and torch, and how pytest ended there."""
    with tempfile.TemporaryDirectory(prefix="focaldet-wheel-") as folder:
        subprocess.run([python, "-m", "venv", folder], check=True)
        here = f"{folder}/bin/python"
        wanted = "torch" if torch == "newest" else f"torch=={torch}"
        install(here, wanted)
        install(here, f"{wheel}[test]", wanted)
        facts = subprocess.run([here, "-c", FACTS], cwd=folder, capture_output=True, text=True)
        if facts.returncode != 0:
            raise SystemExit(f"torch {torch}: {facts.stderr}")
        started = time.monotonic()
        # Not `python -m pytest`, which would put ROOT, and so ./focaldet, before the wheel.
        parallel = ["-n", "auto", "--dist", "loadfile"]
        command = [f"{folder}/bin/pytest", "-q", *parallel, "-m", "not slow and not simt", *tests]
        ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        seconds = round(time.monotonic() - started)
    last = ran.stdout.strip().splitlines()[-1] if ran.stdout.strip() else ran.stderr[-300:]
    if ran.returncode != 0:
        print(ran.stdout[-6000:], ran.stderr[-2000:], sep="\n")
    outcome = re.sub(r" in [\d.]+s.*", "", last).strip("= ")
    return {
        **json.loads(facts.stdout),
        "tests": outcome,
        "seconds": seconds,
        "exit": ran.returncode,
    }


def install(python: str, *packages: str) -> None:
    subprocess.run([python, "-m", "pip", "install", "-q", *packages], check=True)


def sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


if __name__ == "__main__":
    sys.exit(main())
