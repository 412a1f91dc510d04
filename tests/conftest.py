"""What every test may ask for: a device, the real data, the benchmarks; and what every test gets:
fixed seeds."""

from __future__ import annotations

import importlib.util
import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import hypothesis
import numpy as np
import pytest
import torch
from simt import build
from simt.kernels import SEEDS, Kernels

import focaldet

HAS_CUDA = focaldet._C_cuda is not None and torch.cuda.is_available()
FULL_SIZE = ["cpu"] + ([pytest.param("cuda", marks=pytest.mark.cuda)] if HAS_CUDA else [])
DEVICES = [*FULL_SIZE, pytest.param("simt", marks=pytest.mark.simt)]

SIMT = pytest.StashKey[Kernels]()

# The same examples on every run, as many as are worth their time here, and no files. A device may
# serve all examples of a test.
hypothesis.settings.register_profile(
    "focaldet",
    derandomize=True,
    database=None,
    deadline=None,
    max_examples=60,
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
)
hypothesis.settings.load_profile("focaldet")


@pytest.fixture(scope="session")
def compiled() -> None:
    """For what is compiled on the way."""
    try:
        build.compiler()
    except build.Unavailable as reason:
        pytest.skip(str(reason))


@pytest.fixture(scope="session")
def simt_kernels(request: pytest.FixtureRequest, compiled: None) -> Kernels:
    """The CUDA kernels, compiled for the host."""
    # Which memory is touched depends on no schedule: under sanitizers, the random one will do.
    seeds = SEEDS[-1:] if build.sanitized() else SEEDS
    kernels = request.config.stash[SIMT] = Kernels(build.cuda_kernels(), seeds)
    return kernels


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    kernels = config.stash.get(SIMT, None)
    if kernels and (launches := kernels.launches()):
        terminalreporter.write_line(
            f"simt: {sum(launches.values()):,} launches of {len(launches)} kernels; results "
            f"compared under the schedules {', '.join(map(str, kernels.seeds))}"
        )


@pytest.fixture
def simt(simt_kernels: Kernels) -> Iterator[torch.device]:
    """CPU tensors, with the CUDA kernels run on the host in place of the CPU's."""
    with simt_kernels.in_place_of_cpu():
        yield torch.device("cpu")


@pytest.fixture(params=DEVICES)
def device(request: pytest.FixtureRequest) -> torch.device:
    """Each device that the operators were built for and that is here, and simt."""
    if request.param == "simt":
        return request.getfixturevalue("simt")
    return torch.device(request.param)


@pytest.fixture(params=FULL_SIZE)
def full_size_device(request: pytest.FixtureRequest) -> torch.device:
    """For more than a few thousand boxes, which would take simt minutes."""
    return torch.device(request.param)


@pytest.fixture
def data_dir() -> Path:
    """The folder of real data sets named by FOCALDET_DATA."""
    folder = os.environ.get("FOCALDET_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("FOCALDET_DATA names no folder of data sets")
    return Path(folder)


@pytest.fixture(scope="module")
def benchmarks() -> Iterator[None]:
    """Makes `benchmarks` importable without the project root, and so ./focaldet, on sys.path."""
    folder = Path(__file__).resolve().parent.parent / "benchmarks"
    spec = importlib.util.spec_from_file_location(
        "benchmarks", folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    sys.modules["benchmarks"] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
    for name in [n for n in sys.modules if n.partition(".")[0] == "benchmarks"]:
        del sys.modules[name]


@pytest.fixture
def quick_bars() -> Callable[[str], str]:
    """Runs a command of benchmarks.bars on tiny inputs, and returns what it prints."""

    def run(name: str) -> str:
        command = [sys.executable, "-m", f"benchmarks.bars.{name}", "--quick", "--rounds", "1"]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}  # there is little to share
        root = Path(__file__).resolve().parent.parent
        done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert "Quick: the figures mean nothing." in done.stdout
        return done.stdout

    return run


@pytest.fixture(autouse=True)
def _reproducible() -> Iterator[None]:
    """Every test starts from one seed and leaves the number of threads as it was."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
