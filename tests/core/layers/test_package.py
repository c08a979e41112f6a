"""What the package offers: every layer by its name, and all of them without numbers on the meta device."""

import inspect
import pkgutil
from importlib import import_module

import pytest
import torch
from torch import nn

from stillpoint import pipelines
from stillpoint.core import layers
from tests.core.layers.cases import CASES, PARTS

FILES = [import_module(f"stillpoint.core.layers.{file.name}") for file in pkgutil.iter_modules(layers.__path__)]
MODULES = {
    name: thing
    for file in FILES
    for name, thing in vars(file).items()
    if inspect.isclass(thing) and issubclass(thing, nn.Module) and thing.__module__ == file.__name__
    # the base of the fillings of the slot is no layer by itself
    if not name.startswith("_") and thing is not layers.Downsample and name not in PARTS
}


@pytest.mark.parametrize("name", sorted(MODULES))
def test_every_layer_is_taken_from_the_package(name: str) -> None:
    assert name in layers.__all__ and getattr(layers, name) is MODULES[name]


@pytest.mark.parametrize(
    "name", ["complex_modulus", "modulus_batch_norm2d", "scattering2d", "sparse_coding2d", "wavelet_packets2d"]
)
def test_and_so_is_its_function(name: str) -> None:
    assert name in layers.__all__ and callable(getattr(layers, name))


def test_all_that_is_offered_is_there() -> None:
    assert not [name for name in layers.__all__ if not hasattr(layers, name)]


def test_every_layer_has_a_case() -> None:
    assert set(CASES) == set(MODULES)


def _inputs(shapes: tuple[tuple[int, ...], ...], device: str) -> list[torch.Tensor]:
    # a phase is an integer, and 0 is one
    return [torch.zeros(shape, device=device, dtype=torch.int64 if len(shape) == 1 else None) for shape in shapes]


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("name", sorted(CASES))
def test_a_layer_without_numbers_says_the_shape_of_its_result(name: str, training: bool) -> None:
    make, shapes = CASES[name]
    layer = make().train(training)
    want = layer(*_inputs(shapes, "cpu"))
    got = layer.to("meta")(*_inputs(shapes, "meta"))
    assert got.is_meta and got.shape == want.shape and got.dtype == want.dtype


@pytest.mark.parametrize(
    "name", ["aps/resnet18_aps3", "blurpool/resnet18_lpf4", "sdnet/sdnet18", "wavelet_twins/R34wyC"]
)
def test_a_network_without_numbers_says_the_shape_of_its_logits(name: str) -> None:
    net = pipelines.create(name).to("meta").eval()
    assert net(torch.zeros(2, 3, 224, 224, device="meta")).shape == (2, 1000)
