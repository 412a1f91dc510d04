"""What `focaldet env` prints: versions, what was built, and what runs here."""

from __future__ import annotations

import ctypes
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from types import ModuleType

import torch

import focaldet

from .gpus import kernels_for

PACKAGES = ("torchvision", "numpy", "pycocotools", "Pillow", "safetensors")


def report() -> str:
    """A line per fact, in the form `name: value`."""
    facts = {
        "focaldet": f"{focaldet.__version__}, built with torch {focaldet._C.built_with_torch}, "
        f"compiler {focaldet._C.compiler}",
        "torch": f"{torch.__version__}, {_torch_cuda()}",
        "python": f"{sys.version.split()[0]}, {platform.platform()}",
        "packages": ", ".join(f"{name} {_installed(name)}" for name in PACKAGES),
        "CPU kernels": f"{focaldet._C.simd_level}, {torch.get_num_threads()} threads",
        "CUDA kernels": _cuda_kernels(),
        **_gpus(),
    }
    width = max(map(len, facts)) + 1
    return "\n".join(f"{name + ':':<{width}} {value}" for name, value in facts.items())


def _torch_cuda() -> str:
    return f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPU only"


def _installed(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def _cuda_kernels() -> str:
    module = focaldet._C_cuda
    if module is not None:
        return f"built with CUDA {module.cuda_version} for {module.archs}, runtime linked in"
    return f"not loaded: {focaldet.cuda_reason}"


def _gpus() -> dict[str, str]:
    """A fact for each GPU: its name, and what the build has for it."""
    if not torch.cuda.is_available():
        return {"GPU": "none"}
    module, facts = focaldet._C_cuda, {}
    for index in range(torch.cuda.device_count()):
        gpu = torch.cuda.get_device_properties(index)
        kernels = f": {_kernels_for((gpu.major, gpu.minor), module)}" if module else ""
        facts[f"GPU {index}"] = f"{gpu.name} (sm_{gpu.major}{gpu.minor}){kernels}"
    return facts


def _kernels_for(capability: tuple[int, int], module: ModuleType) -> str:
    """What the CUDA module has for a GPU, if the driver takes it: the runtime that is linked in may
    be newer than torch's, for which the driver is new enough."""
    driver = _cuda_of_the_driver()
    if driver < int(module.cuda_version.split(".")[0]):
        return (
            f"no kernels: this build, of CUDA {module.cuda_version}, is newer than the driver, "
            f"which is of CUDA {driver}; update it, or build with an nvcc and a torch of CUDA "
            f"{driver}"
        )
    return kernels_for(capability, module.archs)


def _cuda_of_the_driver() -> int:
    """Its major version, whose every minor version it takes."""
    version = ctypes.c_int()
    ctypes.CDLL("libcuda.so.1").cuDriverGetVersion(ctypes.byref(version))
    return version.value // 1000  # 12080 is 12.8
