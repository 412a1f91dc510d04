"""What every test may ask for: a device, the real data; and what every test gets: fixed seeds."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import numpy as np
import pytest
import torch

import focaldet

HAS_CUDA = focaldet._C_cuda is not None and torch.cuda.is_available()
DEVICES = ["cpu"] + ([pytest.param("cuda", marks=pytest.mark.cuda)] if HAS_CUDA else [])

# The same examples on every run, as many as are worth their time here, and no files.
hypothesis.settings.register_profile(
    "focaldet", derandomize=True, database=None, deadline=None, max_examples=60
)
hypothesis.settings.load_profile("focaldet")


@pytest.fixture(params=DEVICES)
def device(request: pytest.FixtureRequest) -> torch.device:
    """Each device that the operators were built for and that is here."""
    return torch.device(request.param)


@pytest.fixture
def data_dir() -> Path:
    """The folder of real data sets named by FOCALDET_DATA."""
    folder = os.environ.get("FOCALDET_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("FOCALDET_DATA names no folder of data sets")
    return Path(folder)


@pytest.fixture(autouse=True)
def _reproducible() -> Iterator[None]:
    """Every test starts from one seed and leaves the number of threads as it was."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
