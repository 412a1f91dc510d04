"""Which GPUs a build serves, by CUDA's rules (Programming Guide: binary and PTX compatibility)."""

from __future__ import annotations

import ctypes
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import focaldet
from focaldet import env
from focaldet.gpus import kernels_for

CODE, PTX, NONE, UNKNOWN = "kernels built for it", "kernels as PTX", "no kernels", "built for "


@pytest.mark.parametrize(
    ("capability", "archs", "expected"),
    [
        ((8, 0), "8.0;9.0+PTX", CODE),
        ((8, 9), "8.0;9.0+PTX", CODE),  # a later minor of the same major
        ((9, 0), "8.0;9.0+PTX", CODE),
        ((8, 0), "8.6;9.0+PTX", NONE),  # an earlier minor
        ((7, 5), "8.0;9.0+PTX", NONE),  # older than all
        ((10, 0), "8.0;9.0+PTX", PTX),  # newer than all
        ((12, 0), "8.0;9.0+PTX", PTX),
        ((10, 0), "8.0;9.0", NONE),
        ((8, 6), "7.5+PTX;9.0", PTX),  # between, by the PTX of an older one
        ((9, 0), "9.0a", CODE),
        ((9, 0), "8.0;9.0a+PTX", CODE),
        ((10, 0), "9.0a+PTX", NONE),  # PTX for one architecture alone
        ((10, 3), "10.0f", CODE),
        ((11, 0), "10.0f+PTX", NONE),
        ((12, 1), "12.0f;9.0+PTX", CODE),
        ((9, 0), " 8.0 9.0+PTX ", CODE),  # blanks divide as well
        ((12, 0), "7.5;8.0;9.0a;12.0+PTX", CODE),
        ((9, 0), "native", UNKNOWN),
        ((9, 0), "Hopper", UNKNOWN),
        ((9, 0), "8.0;Hopper", UNKNOWN),
        ((9, 0), "", UNKNOWN),
    ],
)
def test_what_a_build_has_for_a_gpu(capability: tuple[int, int], archs: str, expected: str) -> None:
    assert kernels_for(capability, archs).startswith(expected)


def test_the_command_that_builds_what_is_missing() -> None:
    text = kernels_for((7, 5), "8.0;9.0+PTX")
    assert "this build has 8.0;9.0+PTX" in text
    assert 'TORCH_CUDA_ARCH_LIST="7.5" FOCALDET_CUDA=1 pip install .' in text


def drive(monkeypatch: pytest.MonkeyPatch, version: int) -> None:
    """A driver's library: cuDriverGetVersion(int*)."""

    def answer(pointer: Any) -> int:
        pointer._obj.value = version
        return 0

    library = SimpleNamespace(cuDriverGetVersion=answer)
    monkeypatch.setattr(ctypes, "CDLL", {"libcuda.so.1": library}.__getitem__)


def test_env_says_it_for_each_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    gpus = [
        SimpleNamespace(name="NVIDIA H100", major=9, minor=0),
        SimpleNamespace(name="Tesla T4", major=7, minor=5),
    ]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(gpus))
    monkeypatch.setattr(torch.cuda, "get_device_properties", gpus.__getitem__)
    drive(monkeypatch, 13020)
    monkeypatch.setattr(focaldet, "_C_cuda", SimpleNamespace(cuda_version="13.0", archs="8.0;9.0"))
    first, second = [line for line in env.report().splitlines() if line.startswith("GPU")]
    assert first.split(": ", 1)[1].strip() == "NVIDIA H100 (sm_90): kernels built for it"
    assert "Tesla T4 (sm_75): no kernels: this build has 8.0;9.0" in second
    drive(monkeypatch, 12080)
    assert "H100 (sm_90): no kernels: this build, of CUDA 13.0, is newer than the" in env.report()
    monkeypatch.setattr(focaldet, "_C_cuda", None)
    assert "NVIDIA H100 (sm_90)\n" in env.report()
