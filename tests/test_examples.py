"""Every public layer, metric and function of the surface shows in its docstring how it is called, and that runs."""

import doctest
import inspect
from typing import Any

import pytest
import torch

import stillpoint
from stillpoint.core import layers, metrics

#: rooms of names; what reads files that a fresh clone lacks: weights of `dvc pull`, runs of one's own
ROOMS, OF_FILES = {"layers", "metrics"}, {"load", "pretrained"}
SURFACE = {name: getattr(stillpoint, name) for name in set(stillpoint.__all__) - ROOMS - OF_FILES}
#: what has a docstring of its own; tables and aliases of types have none
PUBLIC: dict[str, Any] = {
    **{
        f"layers.{name}": getattr(layers, name) for name in layers.__all__ if hasattr(getattr(layers, name), "__name__")
    },
    **{f"metrics.{name}": getattr(metrics, name) for name in metrics.__all__},
    **SURFACE,
}


@pytest.mark.parametrize("name", sorted(PUBLIC))
def test_an_example_runs(name: str) -> None:
    text = inspect.getdoc(PUBLIC[name]) or ""
    known = {"torch": torch, "layers": layers, "metrics": metrics, "stillpoint": stillpoint}
    (case,) = [doctest.DocTestParser().get_doctest(text, known, name, None, 0)]
    assert case.examples, f"{name} has no example"
    said: list[str] = []
    found = doctest.DocTestRunner(verbose=False).run(case, out=said.append)
    assert found.failed == 0, "".join(said)
