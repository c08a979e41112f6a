"""What every test starts from."""

import os
from pathlib import Path

import pytest
import torch

from tests import fresh

TESTS = Path(__file__).parent

if "PYTEST_XDIST_WORKER" in os.environ:
    # what a part of the suite does without, all of it needs, and so does every process that it forks
    fresh.load()
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


#: what takes longest, from the longest on
LONG = (
    *("core/kernels/test_triton.py", "faults", "core/layers/test_deployment.py", "pipelines/test_workflow.py"),
    *("test_gpu_check.py", "contracts", "core/layers/test_refusals.py", "pipelines/board"),
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes longest begins first, so that both of two processes end together, with what is short.

    Of two, xdist gives one the first half of the items and the other the second; who has done its own takes from the
    end of the other's. So each half begins with every other of `LONG`.
    """
    assert all((TESTS / name).exists() for name in LONG), "a name of what takes longest is of nothing"
    found: list[list[pytest.Item]] = [[] for _ in (*LONG, "the rest")]
    for item in items:
        place = item.path.relative_to(TESTS).as_posix() if item.path.is_relative_to(TESTS) else ""
        found[next((n for n, name in enumerate(LONG) if f"{place}/".startswith(f"{name}/")), -1)].append(item)
    rest = found.pop()
    first, second = ([item for part in found[start::2] for item in part] for start in (0, 1))
    between = max(0, len(items) // 2 - len(first))
    items[:] = [*first, *rest[:between], *second, *rest[between:]]
