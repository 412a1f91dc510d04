"""benchmarks/gpu.sh without a GPU: with steps that are small programs, and what the real ones run.

What is read from what they leave is in test_gpu_outcomes.py.
"""

from __future__ import annotations

import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from simt.kernels import operators
from torch.utils._python_dispatch import TorchDispatchMode

ROOT = Path(__file__).resolve().parent.parent
pytestmark = pytest.mark.usefixtures("benchmarks")
MACHINE = {"gpu": "Some GPU 80GB", "driver": "580.1", "cuda": "13.0", "torch": "2.14.1+cu130"}
ROWS = [{"case": "nms", "provider": name, "seconds": [1]} for name in ("focaldet", "reference")]


def part(name: str) -> ModuleType:
    return importlib.import_module(f"benchmarks.{name}")


def step(name: str, program: str, **options: Any) -> Any:
    """A step that runs a Python program, whose first argument is the file for its result."""

    def read(outcome: Any) -> tuple[dict[str, Any], str]:
        said = {"said": outcome.log.split()}
        return said, "" if outcome.code == 0 else outcome.last_words

    defaults = {
        "limit": 20,
        "command": lambda result: [sys.executable, "-c", program, str(result)],
        "read": read,
    }
    return part("gpu.steps").Step(name, **{**defaults, **options})


Command = Callable[..., int]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Command:
    """The command on a machine with a GPU, with these steps."""
    gpu = part("gpu")
    monkeypatch.setattr(gpu, "missing", lambda: "")
    monkeypatch.setattr(gpu, "machine", lambda: MACHINE)
    monkeypatch.setattr(gpu, "PARTS", tmp_path / "parts")

    def main(*steps: Any, again: tuple[str, ...] = ()) -> int:
        monkeypatch.setattr(gpu, "steps", lambda here: steps)
        monkeypatch.setattr(gpu, "LIMITS", {each.name: each.limit for each in steps})
        options = [word for name in again for word in ("--again", name)]
        return gpu.main([*options, "--json", str(tmp_path / "gpu.json")])

    return main


@pytest.fixture
def result(tmp_path: Path) -> Callable[[], dict[str, Any]]:
    return lambda: json.loads((tmp_path / "gpu.json").read_text())


def test_what_passed_is_kept_and_what_failed_runs_again(
    run: Command, result: Callable[[], dict[str, Any]], tmp_path: Path
) -> None:
    count = f"import os; open({str(tmp_path / 'runs')!r}, 'a').write('%s'); os._exit(%d)"
    good, bad = step("good", count % ("g", 0)), step("bad", count % ("b", 3))
    runs = tmp_path / "runs"
    assert run(good, bad) == 1 and runs.read_text() == "gb"
    assert run(good, bad) == 1 and runs.read_text() == "gbb"
    assert result()["steps"]["good"]["status"] == "passed"
    assert run(good, step("bad", count % ("b", 0))) == 0 and runs.read_text() == "gbbb"
    assert run(good, bad, again=("good",)) == 0 and runs.read_text() == "gbbbg"
    lost = step("good", count % ("g", 0), still_holds=lambda part: False)
    assert run(lost, bad) == 0 and runs.read_text() == "gbbbgg"


def test_parts_belong_to_sources_gpu_and_torch(
    run: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    good = step("good", "")
    run(good)
    monkeypatch.setitem(MACHINE, "gpu", "Another GPU")
    run(good)
    monkeypatch.setattr(part("gpu"), "csrc_sha256", lambda: "f" * 64)
    run(good)
    csrc = part("sources").csrc_sha256()[:12]
    assert {folder.name for folder in (tmp_path / "parts").iterdir()} == {
        f"{csrc}-some-gpu-80gb-torch-2.14.1+cu130",
        f"{csrc}-another-gpu-torch-2.14.1+cu130",
        "ffffffffffff-another-gpu-torch-2.14.1+cu130",
    }


def test_the_whole_is_made_of_the_parts(
    run: Command, result: Callable[[], dict[str, Any]], tmp_path: Path
) -> None:
    timed = {"facts": {"gpu": "Some GPU 80GB"}, "rows": ROWS}
    steps = [
        step("tests", "print('fine')"),
        step("float32", "", read=lambda outcome: (timed, "")),
    ]
    assert run(*steps) == 0
    whole = result()
    assert whole["machine"] == MACHINE and list(whole["steps"]) == ["tests", "float32"]
    assert whole["csrc_sha256"] == part("sources").csrc_sha256()
    assert whole["steps"]["tests"]["said"] == ["fine"]
    assert whole["steps"]["float32"]["rows"] == ROWS
    lines = (tmp_path / "gpu.json").read_text().splitlines()
    assert sum('"provider"' in line for line in lines) == len(ROWS)  # a line for each


def test_a_step_that_is_cut_off_leaves_its_part_out(
    run: Command, result: Callable[[], dict[str, Any]]
) -> None:
    """As a machine that is taken away; the next run goes on."""

    def taken(outcome: Any) -> Any:
        raise KeyboardInterrupt

    first = step("first", "print('once')")
    with pytest.raises(KeyboardInterrupt):
        run(first, step("second", "", read=taken))
    assert list(result()["steps"]) == ["first"]
    assert run(step("first", "raise SystemExit(1)"), step("second", "")) == 0
    assert list(result()["steps"]) == ["first", "second"]


@pytest.fixture
def in_the_background() -> Iterator[None]:
    """As a shell starts `benchmarks/gpu.sh &`."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("in_the_background")
def test_a_step_that_runs_out_of_time_leaves_what_it_had(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With as long to start as to wrap up, on a machine that is busy."""
    monkeypatch.setattr(part("gpu.steps"), "WRAP_UP", 0.5)
    program = """
import pathlib, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import signal, time\\n"
    "signal.signal(signal.SIGINT, signal.SIG_IGN)\\ntime.sleep(600)"])
print(child.pid, flush=True)
try:
    time.sleep(600)
except KeyboardInterrupt:
    pathlib.Path(sys.argv[1]).write_text("half")
"""
    slow = step(
        "slow", program, limit=30, read=lambda o: ({"half": o.result.read_text(), "pid": o.log}, "")
    )
    found = slow.run(tmp_path)
    assert found["status"] == "ran out of time" and found["reason"] == "after 30 s"
    assert found["half"] == "half" and found["seconds"] < 60
    stat, deadline = Path("/proc", found["pid"].strip(), "stat"), time.monotonic() + 60
    while stat.exists() and stat.read_text().split()[2] != "Z":  # what it started ends, too
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_exit_codes(run: Command, result: Callable[[], dict[str, Any]]) -> None:
    def cannot(_: Path) -> list[str]:
        raise part("gpu.steps").CannotRun("no such tool")

    absent = step("memcheck", "", command=cannot)
    assert run(step("build", ""), absent) == 0
    assert result()["steps"]["memcheck"] == {
        "status": "not run",
        "seconds": 0,
        "reason": "no such tool",
    }
    broken = step("build", "raise SystemExit('no nvcc here')")
    assert run(broken, step("tests", "", needs="build"), again=("build",)) == 1
    steps = result()["steps"]
    assert (steps["build"]["status"], steps["build"]["reason"]) == ("failed", "no nvcc here")
    assert (steps["tests"]["status"], steps["tests"]["reason"]) == (
        "not run",
        "build did not pass",
    )
    assert run(step("build", "import time; time.sleep(60)", limit=0.5), again=("build",)) == 1


# The real steps ---------------------------------------------------------------------------------


def test_the_steps_fit_into_ten_minutes() -> None:
    gpu = part("gpu")
    steps = gpu.steps({"capability": "9.0"})
    assert [each.name for each in steps] == list(gpu.LIMITS)
    assert sum(gpu.LIMITS.values()) < 600
    assert {each.needs for each in steps[1:]} == {"build"}
    assert all(each.environment["TORCH_CUDA_ARCH_LIST"] == "9.0" for each in steps)


def test_commands(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    gpu = part("gpu")
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CUDA_HOME", raising=False)
    with pytest.raises(part("gpu.steps").CannotRun, match="no compute-sanitizer on PATH or in"):
        gpu.sanitize("memcheck", tmp_path)
    program = tmp_path / "bin" / "compute-sanitizer"
    program.parent.mkdir()
    program.touch(mode=0o755)
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    for tool in gpu.SANITIZERS:
        command = gpu.sanitize(tool, tmp_path)
        assert command[:3] == [str(program), "--tool", tool]
        subset = [sys.executable, "-m", "benchmarks.gpu.subset"]
        assert command[command.index("-m") - 1 :] == [*subset, *gpu.SANITIZED_DTYPES.get(tool, ())]
        assert ("kns=focaldet" in command) == (tool != "initcheck")
    parser = part("__main__").make_parser()
    args = parser.parse_args(gpu.benchmark("bfloat16", tmp_path / "out")[3:])
    assert (args.device, args.dtype, args.json) == ("cuda", "bfloat16", tmp_path / "out")


def test_the_subset_calls_every_operator(capsys: pytest.CaptureFixture[str]) -> None:
    class Recorder(TorchDispatchMode):
        called: set[str] = set()

        def __torch_dispatch__(self, function, types, arguments=(), options=None):
            self.called.add(function.name())
            return function(*arguments, **(options or {}))

    with Recorder():
        names = list(part("gpu.subset").tour(torch.device("cpu")))
    assert len(names) == 7 * 4 and "nms, bfloat16" in names
    assert {f"focaldet::{name}" for name in operators()} <= Recorder.called


# Here -------------------------------------------------------------------------------------------


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_one_line_where_there_is_no_gpu() -> None:
    bash = shutil.which("bash")
    folder = Path(sys.executable).parent
    environment = {**os.environ, "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}"}
    command = [bash, str(ROOT / "benchmarks" / "gpu.sh")]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("benchmarks: error: ") and done.stderr.count("\n") == 1
    assert "no GPU here" in done.stderr or "CPU only" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--again", "synccheck"], "step 'synccheck' is not there; available: build, tests, "),
        (["--json", "no/such/folder/gpu.json"], "expected a file in a folder that exists"),
        (["--fast"], "unrecognized arguments: --fast"),
    ],
)
def test_bad_arguments_get_one_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        part("gpu").main(arguments)
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
