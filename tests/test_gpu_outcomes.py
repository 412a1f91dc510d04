"""What benchmarks/gpu.sh reads from its steps, and what the pages make of it."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from pages.marked import write_pages

ROOT = Path(__file__).resolve().parent.parent
pytestmark = pytest.mark.usefixtures("benchmarks")
MACHINE = {"gpu": "Some GPU 80GB", "driver": "580.1", "cuda": "13.0", "torch": "2.14.1+cu130"}
ROWS = [
    {"op": "nms", "case": "nms, 50 boxes", "provider": name, "moved": 8, "note": "", "seconds": [1]}
    for name in ("focaldet", "reference")
]
FACTS = {
    "gpu": "Some GPU 80GB",
    "threads": 2,
    "simd": "avx2",
    "dtype": "float32",
    "heap": "default",
    "torch": "2.14.1+cu130",
    "torchvision": None,
    "csrc_sha256": "0" * 64,
}


def part(name: str) -> ModuleType:
    return importlib.import_module(f"benchmarks.{name}")


TESTS = """
import os, signal, pytest
def test_good(): pass
def test_skipped(): pytest.skip("no reason")
@pytest.fixture
def broken(): raise RuntimeError
"""
BAD = TESTS + "def test_bad(): assert False\ndef test_error(broken): pass\n"
CUT_OFF = TESTS + "def test_slow(): os.kill(os.getpid(), signal.SIGINT)\n"  # as at its limit


@pytest.mark.parametrize(
    ("source", "status", "counts"),
    [
        (TESTS, "passed", (1, 0, 0, 1)),
        (BAD, "failed", (1, 1, 1, 1)),
        (CUT_OFF, "failed", (1, 0, 0, 1)),
        ("", "failed", (0, 0, 0, 0)),
        ("syntax error", "failed", (0, 0, 1, 0)),
    ],
    ids=["good", "bad", "cut off", "none", "broken"],
)
def test_pytest_is_counted(
    source: str, status: str, counts: tuple[int, ...], tmp_path: Path
) -> None:
    file = tmp_path / "test_small.py"
    file.write_text(source)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(file)]
    command.append(f"--rootdir={tmp_path}")
    tests = part("gpu.steps").Step(
        "tests",
        120,
        lambda result: [*command, f"--junitxml={result}"],
        part("gpu.outcomes").tests,
        {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
    )
    found = tests.run(tmp_path)
    assert found["status"] == status, found
    assert tuple(found[n] for n in ("passed", "failed", "errors", "skipped")) == counts
    if source is BAD:
        assert found["reason"] == "first test_small.test_bad"


def outcome(code: int | None, log: str, result: Path = Path("/none")) -> Any:
    return part("gpu.steps").Outcome(code, log, result)


CLEAN = "========= COMPUTE-SANITIZER\ndone: nms, float32\ndone: nms, float64\n"
OURS = """\
========= Invalid __global__ read of size 4 bytes
=========     at void focaldet::<unnamed>::sort_keys<float>(const T1 *, long)+0x70
=========     by thread (1,0,0) in block (0,0,0)
=========     Address 0x7f00 is out of bounds
=========
"""
TORCHS = """\
========= Uninitialized __global__ memory read of size 4 bytes
=========     at void at::native::sort<float>(T1 *)+0x70
=========     by thread (1,0,0) in block (0,0,0)
=========
"""
RACE = """\
========= Error: Race reported between Write access at focaldet::<unnamed>::walk(int *)+0x90
=========     and Read access at focaldet::<unnamed>::walk(int *)+0x100 [508 hazards]
=========
"""
ERRORS, HAZARDS = "========= ERROR SUMMARY: ", "========= RACECHECK SUMMARY: "


@pytest.mark.parametrize(
    ("code", "log", "found", "elsewhere", "fault"),
    [
        (0, CLEAN + ERRORS + "0 errors\n", 0, 0, ""),
        (0, CLEAN + HAZARDS + "0 hazards displayed (0 errors, 0 warnings)\n", 0, 0, ""),
        (86, CLEAN + OURS + ERRORS + "1 error\n", 1, 0, "Invalid __global__ read of size 4 bytes"),
        (86, TORCHS + CLEAN + TORCHS + ERRORS + "2 errors\n", 0, 2, ""),
        (86, CLEAN + TORCHS + OURS + ERRORS + "2 errors\n", 1, 1, "Invalid __global__ read"),
        (86, CLEAN + RACE + HAZARDS + "1 hazard displayed (1 error, 0 warnings)\n", 1, 0, "Error"),
        (1, CLEAN + "RuntimeError: boom\n" + ERRORS + "0 errors\n", 0, 0, "ERROR SUMMARY: 0"),
        (86, CLEAN + ERRORS + "3 errors\n", 3, 0, "ERROR SUMMARY: 3"),
        (255, CLEAN + "========= Error: terminated\n", None, None, "Error: terminated"),
    ],
)
def test_sanitizers_are_read(
    code: int, log: str, found: int | None, elsewhere: int | None, fault: str
) -> None:
    figures, reason = part("gpu.outcomes").sanitizer(outcome(code, log))
    assert figures["done"] == 2
    assert (figures.get("found"), figures.get("elsewhere")) == (found, elsewhere)
    assert reason.startswith(fault) and bool(reason) == bool(fault)


def test_a_device_that_cannot_be_sanitized() -> None:
    with pytest.raises(part("gpu.steps").CannotRun, match="does not support"):
        part("gpu.outcomes").sanitizer(outcome(255, "========= Error: Device not supported.\n"))


def test_benchmarks_are_read(tmp_path: Path) -> None:
    read, file = part("gpu.outcomes").benchmarks, tmp_path / "float32.result"
    assert read(outcome(2, "benchmarks: error: no\n", file)) == ({}, "benchmarks: error: no")
    file.write_text(json.dumps({"facts": FACTS, "rows": ROWS}))
    assert read(outcome(0, "", file)) == ({"facts": FACTS, "rows": ROWS}, "")
    wrong = [{**ROWS[0], "seconds": [], "note": "disagrees with reference: 1 of 2"}, ROWS[1]]
    file.write_text(json.dumps({"facts": FACTS, "rows": wrong}))
    assert read(outcome(0, "", file))[1] == "nms, 50 boxes: disagrees with reference: 1 of 2"


def test_a_build_holds_while_the_extension_is_its_own(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    outcomes = part("gpu.outcomes")
    monkeypatch.setattr(outcomes, "ROOT", tmp_path)
    (tmp_path / "focaldet").mkdir()
    module = tmp_path / "focaldet" / "_C_cuda.so"
    module.write_bytes(b"one")
    figures, fault = outcomes.build(outcome(0, "focaldet: CUDA 13.0 from /x\nlinked\n"))
    assert figures["nvcc"] == "13.0" and not fault
    holds = part("gpu").steps({"capability": "9.0"})[0].still_holds
    assert holds(figures)
    module.write_bytes(b"two")
    assert not holds(figures)
    module.unlink()
    assert not holds(figures)
    reason = "focaldet: FOCALDET_CUDA=1, but there is no nvcc; put it on PATH or set CUDA_HOME"
    assert outcomes.build(outcome(1, f"{reason}\n")) == ({}, reason)


# What the pages say -----------------------------------------------------------------------------


def rendered(tmp_path: Path, result: dict[str, Any] | None) -> str:
    results = tmp_path / "results"
    write_pages(tmp_path, part("tables").PAGES)
    (results / "gpu").mkdir(parents=True)
    if result is not None:
        (results / "gpu" / "some-gpu.json").write_text(json.dumps(result))
    arguments = ["--root", str(tmp_path), "--results", str(results)]
    assert part("tables").main(arguments) == 0
    assert part("tables").main([*arguments, "--check"]) == 0
    pages = [(tmp_path / name).read_text() for name in ("README.md", "docs/benchmarks.md")]
    status = [line for line in pages[0].splitlines() if line.startswith("GPU: ")][-1]
    assert status in pages[1].splitlines()  # both pages tell the same
    return pages[1]


def measured(csrc: str) -> dict[str, Any]:
    counts = {"passed": 812, "failed": 0, "errors": 0, "skipped": 3}
    clean = {"status": "passed", "seconds": 9, "done": 15, "found": 0}
    absent = {"status": "not run", "seconds": 0, "reason": "no compute-sanitizer on PATH"}
    return {
        "machine": MACHINE,
        "csrc_sha256": csrc,
        "steps": {
            "build": {"status": "passed", "seconds": 80},
            "tests": {"status": "passed", "seconds": 60, **counts},
            "memcheck": {**clean, "elsewhere": 0},
            "racecheck": absent,
            "initcheck": {**clean, "elsewhere": 2},
            "float32": {"status": "passed", "seconds": 50, "facts": FACTS, "rows": ROWS},
        },
    }


OUTCOME = (
    "Some GPU 80GB, driver 580.1, CUDA 13.0; tests: 812 passed, 3 skipped; memcheck: 0 errors; "
    "racecheck: not run (no compute-sanitizer on PATH); initcheck: 0 errors, 2 in other kernels."
)


def test_pages_without_a_result(tmp_path: Path) -> None:
    assert "\n\nGPU: not measured yet.\n\n" in rendered(tmp_path, None)


def test_pages_with_a_result_of_these_sources(tmp_path: Path) -> None:
    text = rendered(tmp_path, measured(part("sources").csrc_sha256()))
    assert f"\n\nGPU: {OUTCOME}\n\nGPU: Some GPU 80GB, 2 threads" in text
    assert "not measured since" not in text and "GPU: not measured yet" not in text
    assert "| nms, 50 boxes | 1.00 s |" in text


def test_pages_after_a_change_of_the_sources(tmp_path: Path) -> None:
    text = rendered(tmp_path, measured("3b6572d240d7" + "0" * 52))
    assert f"\n\nGPU: not measured since `3b6572d240d7`; then, on {OUTCOME}\n\n" in text
    assert "| nms, 50 boxes | 1.00 s |" in text


def test_the_committed_readme_knows_about_the_gpu() -> None:
    text = (ROOT / "README.md").read_text()
    results = list((ROOT / "benchmarks" / "results" / "gpu").glob("*.json"))
    assert ("GPU: not measured yet." in text) == (not results)
