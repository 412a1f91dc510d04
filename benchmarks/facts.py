"""What the figures depend on: the machine, the versions, the sources."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from pathlib import Path
from typing import Any

import torch

import focaldet

from .common import Setup
from .report import HEAP_KEPT
from .sources import csrc_sha256


def facts(setup: Setup) -> dict[str, Any]:
    cuda = setup.device.type == "cuda"
    return {
        "cpu": cpu_model(),
        "cores": os.cpu_count(),
        "gpu": torch.cuda.get_device_name(setup.device) if cuda else None,
        "simd": focaldet._C.simd_level,
        "threads": torch.get_num_threads(),
        "heap": "kept" if all(name in os.environ for name in HEAP_KEPT) else "default",
        "device": setup.device.type,
        "dtype": str(setup.dtype).removeprefix("torch."),
        "quick": setup.quick,
        "focaldet": focaldet.__version__,
        "torch": torch.__version__,
        "torchvision": installed("torchvision"),
        "python": platform.python_version(),
        "csrc_sha256": csrc_sha256(),
    }


def cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def installed(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
