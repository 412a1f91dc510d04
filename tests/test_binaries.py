"""What the compiled modules ask of others is stable: one file serves every torch from 2.10 on,
every Python from 3.10 on, and CPU-only and CUDA builds of torch."""

from __future__ import annotations

import re
import shutil
import subprocess
import sysconfig
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

TORCH = Path(torch.__file__).parent
SHIMS = [
    "torch/csrc/stable/c/shim.h",
    "torch/csrc/inductor/aoti_torch/c/shim.h",
    "torch/csrc/inductor/aoti_torch/generated/c_shim_aten.h",
]
# What csrc/module.h calls; all of it is in CPython's stable ABI since 3.2.
PYTHON = {
    *("PyModule_Create2", "PyModule_AddStringConstant", "_Py_Dealloc"),
    *("PyErr_Occurred", "PyErr_SetString", "PyExc_ImportError"),
}
# The C and C++ libraries keep what they once had under a version. (libtorch offers some of the
# C++ library's without one.) Weak ones may be absent.
SYSTEM = re.compile(r".+@(GLIBC|GLIBCXX|CXXABI|GCC)_[\d.]+|_Z(NK?)?St\w+|_ITM_\w+|__gmon_start__")
SYSTEM_LIBRARIES = {"libstdc++.so.6", "libm.so.6", "libgcc_s.so.1", "libc.so.6", "libdl.so.2"}
SYSTEM_LIBRARIES |= {"librt.so.1", "libpthread.so.0", "ld-linux-x86-64.so.2"}
SYSTEM_LIBRARIES |= {"ld-linux-aarch64.so.1"}
LIBRARIES = {
    "_C": {"libc10.so", "libtorch_cpu.so"},
    "_C_cuda": {"libc10.so", "libtorch_cpu.so", "libtorch_cuda.so"},  # and no CUDA runtime
}

pytestmark = pytest.mark.skipif(shutil.which("readelf") is None, reason="no binutils")
limited = pytest.mark.skipif(
    bool(sysconfig.get_config_var("Py_GIL_DISABLED")), reason="free-threaded: no stable ABI"
)


@pytest.fixture(params=LIBRARIES)
def module(request: pytest.FixtureRequest) -> tuple[str, Path]:
    spec = find_spec(f"focaldet.{request.param}")
    if spec is None or spec.origin is None:
        pytest.skip(f"focaldet was built without {request.param}")
    return request.param, Path(spec.origin)


def symbols(library: Path, which: str) -> list[tuple[str, str]]:
    """The dynamic symbols, with their versions: kind (nm's letter), name."""
    command = ["nm", "-D", f"--{which}-only", str(library)]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    return [(words[-2], words[-1]) for words in map(str.split, lines)]


def shims() -> set[str]:
    """The C functions that LibTorch's stable ABI promises."""
    text = "".join((TORCH / "include" / header).read_text() for header in SHIMS)
    return set(re.findall(r"\b((?:aoti_)?torch_\w+)", text))


def unstable(library: Path) -> list[str]:
    """What a library asks of torch or Python that another version of them may not have."""
    promised = shims() | PYTHON
    return [
        name
        for _, name in symbols(library, "undefined")
        if not SYSTEM.fullmatch(name) and name not in promised and not is_dtype(name)
    ]


def is_dtype(name: str) -> bool:
    """Macros in the header write these, one for each dtype, device and layout."""
    return (
        re.fullmatch(r"aoti_torch_(dtype|device_type|layout|memory_format)_\w+", name) is not None
    )


@limited
def test_nothing_unstable_is_asked_for(module):
    assert unstable(module[1]) == []


def test_the_check_sees_what_is_unstable():
    found = unstable(TORCH / "lib" / "libtorch_python.so")
    assert any(name.startswith("_ZN2at") for name in found)
    assert any(name.startswith("_ZN3c10") for name in found)
    assert "PyFrame_GetCode" in found or "PyUnicode_AsUTF8" in found


def test_the_libraries_that_are_asked_for(module):
    name, path = module
    command = ["readelf", "-d", str(path)]
    dynamic = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    needed = set(re.findall(r"\(NEEDED\)\s+Shared library: \[(.+?)\]", dynamic))
    assert needed - SYSTEM_LIBRARIES == LIBRARIES[name]
    assert "RUNPATH" not in dynamic and "RPATH" not in dynamic  # torch is loaded first


def test_nothing_is_offered_but_the_module(module):
    name, path = module
    strong = [symbol for kind, symbol in symbols(path, "defined") if kind == "T"]
    assert strong == [f"PyInit_{name}"]


def test_no_folder_of_the_build_is_in_it(module):
    code = module[1].read_bytes()
    assert b"csrc/" in code  # where a check failed
    assert re.findall(rb"/[\w./+-]*/(?:csrc|torch/csrc|torch/headeronly)/[\w./]+", code) == []
