"""What every test starts from."""

import os

import pytest
import torch

from tests import fresh

if "PYTEST_XDIST_WORKER" in os.environ:
    # as many workers as cores: threads would only wait for each other, in the processes that tests start too
    torch.set_num_threads(1)
    os.environ.setdefault("OMP_NUM_THREADS", "1")


# what Python compiled of this repository serves all processes that tests start
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
fresh.serve()


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """The same weights and images in every run and order of tests: one that fails, fails again."""
    torch.manual_seed(0)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes longest begins first, so that both of two processes end together."""
    items.sort(key=lambda item: item.path.parent.name not in ("faults", "contracts"))
