"""tests/wheels.py sees what is wrong with a wheel, and its results make a table."""

from __future__ import annotations

import json
import shutil
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest
import wheels

import focaldet

NAME = "focaldet-0.1.0-cp310-abi3-manylinux_2_28_x86_64.whl"
BUILT = [Path(m.__file__ or "") for m in (focaldet._C, focaldet._C_cuda) if m is not None]


def wheel(folder: Path, name: str = NAME, leave_out: str = "", **more: str) -> Path:
    """A wheel with this build's modules, and what `check` wants beside them."""
    files = {f"focaldet/{path.name}": path for path in BUILT}
    texts = dict.fromkeys(wheels.FILES, "")
    texts["focaldet-0.1.0.dist-info/licenses/LICENSE"] = "MIT"
    texts["focaldet-0.1.0.dist-info/licenses/NOTICE"] = "PyTorch"
    with zipfile.ZipFile(folder / name, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for entry, path in files.items():
            if not leave_out or leave_out not in entry:
                archive.write(path, entry)
        for entry, text in (texts | more).items():
            if not leave_out or leave_out not in entry:
                archive.writestr(entry, text)
    return folder / name


@pytest.mark.parametrize(
    "options,problem",
    [
        ({}, None),
        ({"leave_out": "_C_cuda"}, "the CUDA kernels are missing"),
        ({"leave_out": "py.typed"}, "focaldet/py.typed is missing"),
        ({"leave_out": "small.toml"}, "focaldet/recipes/small.toml is missing"),
        ({"leave_out": "NOTICE"}, "licenses/NOTICE is missing"),
        ({"tests/conftest.py": ""}, "also holds tests/conftest.py"),
        ({"name": "focaldet-0.1.0-cp311-cp311-linux_x86_64.whl"}, "no manylinux"),
        ({"name": NAME.replace("linux_2_28", "linux_2_27_x86_64.manylinux_2_28")}, None),
        ({"name": NAME.replace("manylinux_2_28", "manylinux_2_28_x86_64.linux")}, "no manylinux"),
    ],
    ids=[
        "right",
        "no CUDA",
        "no types",
        "no recipes",
        "no licence",
        "tests",
        "tag",
        "two tags",
        "one bad tag",
    ],
)
def test_what_is_wrong_with_a_wheel(tmp_path, capsys, options, problem):
    if shutil.which("torch-abi-audit") is None:
        pytest.skip("no torch-abi-audit")
    if len(BUILT) < 2:
        pytest.skip("focaldet was built without CUDA")
    code = wheels.check(wheel(tmp_path, **options))
    said = capsys.readouterr().out
    assert code == int(problem is not None), said
    assert problem is None or problem in said


def test_the_tests_run_on_the_wheel(tmp_path, monkeypatch):
    """`python -m` and `python -c` put the working folder first on sys.path: in the project's that
    would be ./focaldet, whatever is installed."""
    commands = []

    def run(command, cwd=None, **options):
        commands.append((command, cwd))
        said = "9 passed in 1.2s" if cwd == wheels.ROOT else '{"torch": "2.10.0"}'
        return SimpleNamespace(returncode=0, stdout=said, stderr="")

    monkeypatch.setattr(wheels, "subprocess", SimpleNamespace(run=run))
    found = wheels.try_one(tmp_path / NAME, "2.10.0", "python3", ["tests/ops"])
    assert found["tests"] == "9 passed" and found["torch"] == "2.10.0"
    (command,) = [command for command, cwd in commands if cwd == wheels.ROOT]
    assert Path(command[0]).name == "pytest" and Path(command[0]).parent.name == "bin"


def test_a_table_of_torches(benchmarks, tmp_path):
    from benchmarks import tables

    run = {"torch": "2.10.0+cu128", "cuda": "12.8", "python": "3.11.7", "cuda_kernels": "loaded"}
    other = {**run, "torch": "2.13.0", "cuda": None, "cuda_kernels": "this torch is CPU only"}
    result = {"wheel": NAME, "sha256": "0123456789abcdef"}
    result["runs"] = [run | {"tests": "9 passed"}, other | {"tests": "8 passed, 1 skipped"}]
    (tmp_path / "wheels").mkdir()
    (tmp_path / "wheels" / "linux.json").write_text(json.dumps(result))
    shown = tables.content(tmp_path, "wheels")
    assert f"`{NAME}`, sha256 `0123456789ab`:" in shown
    assert "| 2.10.0+cu128 | CUDA 12.8 | 3.11.7 | loaded | 9 passed |" in shown
    assert "| 2.13.0 | CPU only | 3.11.7 | this torch is CPU only | 8 passed, 1 skipped |" in shown
    assert tables.content(tmp_path / "none", "wheels") == "Not measured yet."
