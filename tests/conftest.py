"""What every test starts from."""

import os

import pytest
import torch

if "PYTEST_XDIST_WORKER" in os.environ:
    # as many workers as cores: threads would only wait for each other, in the processes that tests start too
    torch.set_num_threads(1)
    os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """The same weights and images in every run and order of tests: one that fails, fails again."""
    torch.manual_seed(0)
