"""What every test starts from."""

import pytest
import torch


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """The same weights and images in every run and order of tests: one that fails, fails again."""
    torch.manual_seed(0)
