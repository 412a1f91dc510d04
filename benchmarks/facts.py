"""What the figures depend on: the machine, the versions, the sources."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from pathlib import Path
from typing import Any

import torch

import focaldet

from . import heap, peers
from .inputs import Setup
from .limits import bandwidths
from .sources import csrc_sha256


def facts(setup: Setup) -> dict[str, Any]:
    cuda = setup.device.type == "cuda"
    return {
        "cpu": cpu_model(),
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 2),  # processes that ran or waited, in the last minute
        "gpu": torch.cuda.get_device_name(setup.device) if cuda else None,
        "simd": focaldet._C.simd_level,
        "threads": torch.get_num_threads(),
        "heap": heap.current(),
        "device": setup.device.type,
        "dtype": str(setup.dtype).removeprefix("torch."),
        "quick": setup.quick,
        "versions": versions(),
        "limits": bandwidths(setup.device, setup.quick),
        "csrc_sha256": csrc_sha256(),
    }


def versions() -> dict[str, str | None]:
    """Of the peers, too, of those that are installed."""
    found = {name: installed(name) for name in ("torchvision", *peers.NAMES)}
    return {
        "focaldet": focaldet.__version__,
        "torch": str(torch.__version__),
        "torchvision": found.pop("torchvision"),
        "python": platform.python_version(),
        **{name: version for name, version in found.items() if version},
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
