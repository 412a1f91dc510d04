"""What the tests of training share."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Faster for models this small."""
    torch.set_num_threads(1)
