"""Whatever is wrong with an argument, a kernel refuses it as the plain code does, or both give the same.

The functions and layers are those of `calls` and `cases`, and the kernels those that the loader knows: a new one that
no call reaches fails here.
"""

import ctypes
import inspect
import json
import signal
import subprocess
from typing import Any

import pytest

from stillpoint.core import layers
from stillpoint.core.kernels import native
from tests import fresh
from tests.core.layers.calls import CALLS, FUNCTIONS
from tests.core.layers.cases import CASES
from tests.core.layers.fuzz import entries

#: of one number each: those of the others are the same code
LOADED = [("float", source) for source in native._CONTRACTION]


def fuzzed(module: str, calls: str = "CALLS") -> subprocess.CompletedProcess[str]:
    return fresh.run(["-m", "tests.core.layers.fuzz", module, calls], timeout=300)


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    done = fuzzed("tests.core.layers.calls")
    begun = done.stdout.splitlines()[-1]
    assert done.returncode == 0, f"ended by {begun!r}: {done.stderr[:2000]}"
    return json.loads(begun)


def test_a_wrong_argument_is_refused_or_gives_what_the_plain_code_gives(found: dict[str, Any]) -> None:
    assert not found["wrong"] and found["calls"] > 3000


def test_every_function_of_every_kernel_that_the_loader_knows_was_reached(found: dict[str, Any]) -> None:
    known = set()
    for number, source in LOADED:
        library = native.library(number, source)
        assert isinstance(library, ctypes.CDLL)
        known |= {f"{source}: {name}" for name in entries(library)}
    assert known and set(found["ran"]) == known


def test_every_function_and_every_layer_is_called() -> None:
    offered = {name for name in layers.__all__ if inspect.isfunction(getattr(layers, name))}
    assert {name.partition(",")[0] for name in FUNCTIONS} == offered
    assert {f"{name}, called" for name in CASES} <= set(CALLS)


def test_an_accident_and_a_check_of_the_kernels_alone_are_found() -> None:
    wrong = json.loads(fuzzed("tests.core.layers.unguarded").stdout.splitlines()[-1])["wrong"]
    for said in (
        "refused: [0][1] axis 0 shorter: refused with kernels alone: the weight must be (C,)",
        "other: [0][0] axis 3 longer: other numbers",
        "accident: = 2 for stride: with kernels: KeyError: 2",
    ):
        assert any(line.startswith(said) for line in wrong), wrong


def test_a_kernel_that_reads_beyond_a_weight_is_found() -> None:
    done = fuzzed("tests.core.layers.unguarded", "BEYOND")
    assert done.returncode == -signal.SIGSEGV
    assert done.stdout.splitlines()[-1] == "beyond: [0][0] axis 1 longer"
