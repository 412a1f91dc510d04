"""Builds focaldet's extension modules against whichever torch is there.

_C       every operator's schema and the CPU kernels; needs a C++ compiler.
_C_cuda  the CUDA kernels; built where nvcc works and torch has CUDA. FOCALDET_CUDA=1 insists on it
         (and fetches the compiler where there is none), FOCALDET_CUDA=0 leaves it out.
         Architectures: TORCH_CUDA_ARCH_LIST, else the visible GPU's, else 8.0;9.0+PTX.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from typing import NoReturn

import setuptools
from setuptools import Extension, setup

DEFAULT_ARCHS = "8.0;9.0+PTX"
STABLE_ABI = "0x020a000000000000"  # torch 2.10's stable ABI, which every later torch keeps
# CPython 3.10's (csrc/module.h), likewise, but for the free-threaded builds.
ANY_PYTHON = not sysconfig.get_config_var("Py_GIL_DISABLED")
FREE_DISK = 1 << 30

# The same bits on every machine: no fused multiply-add but the explicit ones, never fast-math.
CXX_FLAGS = (
    "-O3 -std=c++17 -ffp-contract=off -fno-math-errno -fno-trapping-math -fvisibility=hidden "
    "-Wall -Wextra"
).split()
NVCC_FLAGS = (
    "-O3 -std=c++17 -fmad=false --expt-relaxed-constexpr "
    "-Xcompiler -ffp-contract=off,-fvisibility=hidden"
).split()


def without_folders(torch_include: str) -> list[str]:
    """Flags that keep the names of folders, in messages of checks, out of the binaries."""
    return [f"-ffile-prefix-map={os.getcwd()}/=", f"-ffile-prefix-map={torch_include}/="]


def same_names(nvcc: str) -> list[str]:
    """Flags for nvcc to make internal names of the source's path alone, and not of a process's
    number as well, where it can."""
    known = subprocess.run([nvcc, "--help"], capture_output=True, text=True).stdout
    return ["-frandom-seed=focaldet"] if "-frandom-seed" in known else []


def stop(reason: str) -> NoReturn:
    """Ends the build with one line instead of a traceback."""
    sys.exit(f"focaldet: {reason}")


def say(fact: str) -> None:
    print(f"focaldet: {fact}", file=sys.stderr)


def cuda_wish() -> str:
    wish = os.environ.get("FOCALDET_CUDA") or "auto"
    if wish not in ("0", "1", "auto"):
        stop(f"FOCALDET_CUDA={wish}: expected 1 (build for CUDA) or 0 (leave CUDA out)")
    return wish


def find_nvcc() -> str | None:
    """nvcc of CUDA_HOME, of PATH, or of the nvidia packages in this Python environment."""
    home = os.environ.get("CUDA_HOME")
    if home and os.access(f"{home}/bin/nvcc", os.X_OK):
        return f"{home}/bin/nvcc"
    if on_path := shutil.which("nvcc"):
        return on_path
    packaged = [nvcc for folder in sys.path for nvcc in Path(folder).glob("nvidia/cu*/bin/nvcc")]
    return str(packaged[0]) if packaged else None


def cuda_root(nvcc: str) -> str | None:
    """The toolkit that nvcc compiles with: nvcc on PATH may be a script far from its headers."""
    dry = [nvcc, "--dryrun", "-x", "cu", os.devnull]
    try:
        answer = subprocess.run(dry, capture_output=True, text=True, timeout=60).stderr
    except (OSError, subprocess.TimeoutExpired):
        return None
    top = re.search(r"^#\$ TOP=(\S+)", answer, re.MULTILINE)
    return os.path.realpath(top.group(1)) if top else None


def nvcc_version(nvcc: str) -> str:
    answer = subprocess.run([nvcc, "--version"], capture_output=True, text=True).stdout
    release = re.search(r"release (\d+\.\d+)", answer)
    return release.group(1) if release else "unknown"


def cuda_runtime(root: str) -> str:
    """The folder whose CUDA runtime is of nvcc's own version: the root, but for fetched compilers.

    Of those, pip leaves out the runtime where torch has brought it already, and nvcc then draws in
    the newest beside itself, whose headers it refuses.
    """
    major, minor = map(int, nvcc_version(f"{root}/bin/nvcc").split("."))
    wanted = re.compile(rf"#define CUDART_VERSION\s+{1000 * major + 10 * minor}\b")
    packaged = [folder for path in sys.path for folder in Path(path).glob("nvidia/cu*")]
    for folder in (Path(root), *packaged):
        header = folder / "include/cuda_runtime_api.h"
        if header.exists() and wanted.search(header.read_text()):
            return str(folder)
    return root


def cuda_toolkit(torch_cuda: str | None) -> str | None:
    """The root of the toolkit to build _C_cuda with, or None for a CPU build."""
    wish = cuda_wish()
    if wish == "0":
        say("CUDA left out (FOCALDET_CUDA=0)")
        return None

    def without(reason: str) -> None:
        if wish == "1":
            stop(f"FOCALDET_CUDA=1, but {reason}")
        say(f"CUDA left out: {reason}")

    if torch_cuda is None:
        return without("this torch is a CPU-only build; install a CUDA build of torch")
    nvcc = find_nvcc()
    if nvcc is None:
        return without("there is no nvcc; put it on PATH or set CUDA_HOME")
    root = cuda_root(nvcc)
    if root is None or not Path(root, "include/cuda_runtime.h").exists():
        return without(f"{nvcc} finds no CUDA headers")
    version = nvcc_version(nvcc)
    if version.split(".")[0] != torch_cuda.split(".")[0]:
        return without(f"nvcc is CUDA {version} and torch is CUDA {torch_cuda}")
    if not any(Path(root, lib, "libcudart_static.a").exists() for lib in ("lib64", "lib")):
        return without(f"{root} has no libcudart_static.a")
    say(f"CUDA {version} from {root}")
    return root


def packaged_compiler(torch_cuda: str | None) -> list[str]:
    """Build requirements that bring nvcc, where CUDA is insisted on and there is none.

    From CUDA 13 on the packages share one folder, as a toolkit does.
    """
    if cuda_wish() != "1" or torch_cuda is None or find_nvcc() or torch_cuda.startswith("12."):
        return []
    parts = ("cuda-nvcc", "nvvm", "cuda-crt", "cuda-cccl", "cuda-runtime")
    return [f"nvidia-{part}=={torch_cuda}.*" for part in parts]


def visible_archs() -> str:
    """The architectures of this machine's GPUs, the newest also as PTX; empty without one."""
    import torch

    devices = range(torch.cuda.device_count())
    found = sorted({torch.cuda.get_device_capability(device) for device in devices})
    return ";".join(f"{major}.{minor}" for major, minor in found) + ("+PTX" if found else "")


def check_machine(compiler: str) -> None:
    if shutil.which(compiler.split()[0]) is None:
        stop(f"no C++ compiler ({compiler}); install g++ or clang++, or set CXX")
    header = Path(sysconfig.get_paths()["include"], "Python.h")
    if not header.exists():
        stop(f"no Python.h ({header}); install the Python headers (python3-dev)")
    free = shutil.disk_usage(".").free
    if free < FREE_DISK:
        stop(f"{free / 1e9:.1f} GB of disk left here; the build needs {FREE_DISK / 1e9:.1f} GB")


def sources(*patterns: str) -> list[str]:
    return sorted(str(path) for pattern in patterns for path in Path("csrc").glob(pattern))


def extensions(root: str | None) -> list[Extension]:
    """_C and, with the root of a CUDA toolkit, _C_cuda."""
    import torch
    from torch.utils import cpp_extension

    no_folders = without_folders(cpp_extension.include_paths()[0])
    macros = [
        ("TORCH_TARGET_VERSION", STABLE_ABI),
        ("FOCALDET_TORCH", f'"{torch.__version__}"'),
    ]
    common = {
        "depends": ["setup.py", *sources("*.h", "*/*.h", "*/*.cuh")],
        "extra_link_args": ["-Wl,--exclude-libs,ALL", "-Wl,-s"],
        "py_limited_api": ANY_PYTHON,
    }
    cxx = CXX_FLAGS + no_folders
    cpu = cpp_extension.CppExtension(
        "focaldet._C",
        sources("*.cpp", "cpu/*.cpp"),
        define_macros=[*macros],
        extra_compile_args={"cxx": cxx},
        **common,
    )
    # Not torch_python, which is no stable ABI.
    cpu.libraries = ["c10", "torch_cpu"]
    if root is None:
        return [cpu]
    archs = os.environ["TORCH_CUDA_ARCH_LIST"]
    say(f"CUDA architectures: {archs}")
    nvcc = [*NVCC_FLAGS, *same_names(f"{root}/bin/nvcc")]
    nvcc += [word for flag in no_folders for word in ("-Xcompiler", flag)]
    runtime = cuda_runtime(root)
    cuda = cpp_extension.CUDAExtension(
        "focaldet._C_cuda",
        sources("cuda/*.cpp", "cuda/*.cu"),
        define_macros=[*macros, ("USE_CUDA", None), ("FOCALDET_CUDA_ARCHS", f'"{archs}"')],
        include_dirs=[f"{runtime}/include"],
        extra_compile_args={"cxx": cxx, "nvcc": nvcc},
        **common,
    )
    # The CUDA runtime is linked statically, so that the module does not ask for one by version.
    cuda.library_dirs[:0] = [f"{runtime}/lib64", f"{runtime}/lib"]
    cuda.libraries = ["c10", "torch_cpu", "torch_cuda", "cudart_static", "rt", "dl", "pthread"]
    return [cpu, cuda]


def main() -> None:
    if int(setuptools.__version__.split(".")[0]) < 77:  # without isolation nobody else says it
        stop(f"building needs setuptools>=77, and this is {setuptools.__version__}; update it")
    try:
        import torch
    except ImportError:
        stop("building needs torch>=2.10 here; install it, or build with isolation on")
    if tuple(map(int, torch.__version__.split(".")[:2])) < (2, 10):
        stop(f"building needs torch>=2.10, and this is {torch.__version__}; update it")
    needed = packaged_compiler(torch.version.cuda)
    if needed and "egg_info" in sys.argv:
        # The build frontend asks what to install before the build; then there is an nvcc.
        setup(setup_requires=needed)
        return
    root = cuda_toolkit(torch.version.cuda)
    if root is not None:
        os.environ["CUDA_HOME"] = root  # read when cpp_extension is imported
        archs = os.environ.get("TORCH_CUDA_ARCH_LIST") or visible_archs() or DEFAULT_ARCHS
        os.environ["TORCH_CUDA_ARCH_LIST"] = archs
    from torch.utils import cpp_extension

    class Build(cpp_extension.BuildExtension):
        def build_extensions(self) -> None:
            self.force = True  # another torch or other architectures: ninja knows what is stale
            if self.editable_mode:  # not in a folder of pip's, which is gone before the next build
                self.build_temp = "build/editable"
            check_machine(cpp_extension.get_cxx_compiler())
            for extension in self.extensions:
                version = self.distribution.get_version()
                extension.define_macros.append(("FOCALDET_VERSION", f'"{version}"'))
            self.drop_earlier()
            say("building " + " and ".join(e.name for e in self.extensions))
            super().build_extensions()

        def drop_earlier(self) -> None:
            """Modules of an earlier build here: left out now or named otherwise, they would be
            packed, and loaded, all the same."""
            made = [Path(self.get_ext_fullpath(e.name)) for e in self.extensions]
            for name in ("_C", "_C_cuda"):
                for suffix in EXTENSION_SUFFIXES:
                    module = made[0].parent / f"{name}{suffix}"
                    if module not in made:
                        module.unlink(missing_ok=True)

    setup(
        ext_modules=extensions(root),
        cmdclass={"build_ext": Build},
        options={"bdist_wheel": {"py_limited_api": "cp310"}} if ANY_PYTHON else {},
    )


main()
