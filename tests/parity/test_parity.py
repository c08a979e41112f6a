"""Every reference case, through the adapter of its system. Set PARITY_CASES to a folder to run further cases.

A case that no adapter knows fails; so does an output that our side does not give.
"""

import os
from importlib import import_module
from pathlib import Path

import pytest
import torch

from tests.parity import parity

HERE = Path(__file__).parent / "cases"
LAYER, NETWORK = 1e-5, 1e-4


def _cases() -> list[Path]:
    folders = [HERE, *(Path(folder) for folder in os.environ.get("PARITY_CASES", "").split(os.pathsep) if folder)]
    return [path for folder in folders for path in sorted(folder.rglob("*.json.gz"))]


@pytest.mark.parametrize("path", _cases(), ids=lambda path: f"{path.parent.name}/{path.name.removesuffix('.json.gz')}")
def test_reference_case(path: Path) -> None:
    case = parity.load(path)
    adapter = import_module(f"tests.parity.adapters.{case['system']}")
    with torch.random.fork_rng(devices=[]):
        got = adapter.run(case)
    missing = set(case["outputs"]) - set(got)
    assert not missing, f"outputs not computed: {sorted(missing)}"
    default = NETWORK if adapter.is_network(case) else LAYER
    tolerance = getattr(adapter, "tolerance", lambda case, name: None)
    errors = {name: parity.error(got[name], want) for name, want in case["outputs"].items()}
    limits = {name: tolerance(case, name) or default for name in errors}
    wrong = {name: f"{e:.2e} > {limits[name]:.0e}" for name, e in errors.items() if not e <= limits[name]}
    assert not wrong, f"{case['model']} {case['kwargs']}: {wrong}"


def test_there_are_cases() -> None:
    assert len(_cases()) >= 100
