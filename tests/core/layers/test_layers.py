"""The contract of every layer: options by name alone, and built on the device and in the dtype that it is told."""

import inspect
import pkgutil
from importlib import import_module

import pytest
import torch
from torch import nn

from stillpoint.core import layers
from stillpoint.core.layers.wavelet_packings import RESNET
from tests.core.layers.cases import PARTS

FILES = [import_module(f"stillpoint.core.layers.{found.name}") for found in pkgutil.iter_modules(layers.__path__)]
PUBLIC = {
    name: thing
    for file in FILES
    for name, thing in vars(file).items()
    if not name.startswith("_") and getattr(thing, "__module__", "") == file.__name__ and name not in PARTS
}
#: a module of PyTorch that pads by other means, whose arguments are PyTorch's
AS_PYTORCHS = {"PaddedConv2d"}
MODULES = {
    name: thing
    for name, thing in PUBLIC.items()
    # the base of the fillings of the slot is no layer by itself
    if inspect.isclass(thing) and issubclass(thing, nn.Module) and name not in AS_PYTORCHS | {"Downsample"}
}
FUNCTIONS = {name: thing for name, thing in PUBLIC.items() if inspect.isfunction(thing)}
#: made of modules that are there already, or of none at all and no filling of the slot
WITHOUT_TENSORS = {"ComplexModulus", "DenseMaxPool2d", "TwinStem", "WaveletTwin2d"}
#: what the slot is described by
SLOT = {"Downsample", "DownsampleFactory", "Grid", "SoftGrid"}
#: what a layer is of or works on; everything else is an option
GIVEN = {
    *("channels", "in_channels", "out_channels", "dictionary_size", "kernel_size", "stride", "depth", "packing"),
    *("free", "wavelet", "first"),
}
WORKED_ON = {
    *("x", "y", "phase", "grid", "logits", "coefficients", "weight", "weights", "kernel", "bias", "running_energy"),
    *("scores", "responses", "conv", "norm", "act", "residual"),
}
VALUES = {"channels": 8, "in_channels": 3, "out_channels": 4, "dictionary_size": 4, "stride": 2, "packing": RESNET}


def positional(thing: object) -> list[str]:
    named = inspect.signature(thing).parameters.values()  # type: ignore[arg-type]
    return [p.name for p in named if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]


def built(kind: type[nn.Module], **build: object) -> nn.Module:
    parameters = inspect.signature(kind).parameters.values()
    return kind(**{p.name: VALUES[p.name] for p in parameters if p.default is p.empty}, **build)


def test_all_that_the_package_offers_is_looked_at() -> None:
    offered = {name for name in layers.__all__ if callable(getattr(layers, name))} - SLOT
    assert offered <= set(MODULES) | set(FUNCTIONS) | AS_PYTORCHS and len(MODULES) > len(WITHOUT_TENSORS)


@pytest.mark.parametrize("name", sorted(MODULES))
def test_a_modules_options_go_by_their_names(name: str) -> None:
    assert set(positional(MODULES[name])) <= GIVEN


def test_a_module_of_pytorch_keeps_its_arguments() -> None:
    for name in AS_PYTORCHS:
        module = PUBLIC[name]
        assert inspect.signature(module) == inspect.signature(module.__base__)


@pytest.mark.parametrize("name", sorted(set(FUNCTIONS) & set(layers.__all__)))
def test_a_functions_options_go_by_their_names(name: str) -> None:
    first, *others = positional(FUNCTIONS[name])
    assert {first, *others} <= WORKED_ON | {"size", "dims", "kind", "pads"}


@pytest.mark.parametrize("name", sorted(set(MODULES) - WITHOUT_TENSORS))
@pytest.mark.parametrize(
    ("device", "dtype"), [("meta", torch.float32), ("meta", torch.float64), ("cpu", torch.float64)]
)
def test_a_module_is_built_on_its_device_and_in_its_dtype(name: str, device: str, dtype: torch.dtype) -> None:
    layer = built(MODULES[name], device=device, dtype=dtype)
    for tensor in (*layer.parameters(), *layer.buffers()):
        assert tensor.device.type == device
        assert tensor.dtype == dtype or not tensor.is_floating_point()


@pytest.mark.parametrize("name", sorted(set(MODULES) - WITHOUT_TENSORS))
def test_a_module_that_is_told_nothing_is_of_torchs_defaults(name: str) -> None:
    layer = built(MODULES[name])
    held = [tensor for tensor in (*layer.parameters(), *layer.buffers()) if tensor.is_floating_point()]
    assert all(tensor.device.type == "cpu" and tensor.dtype == torch.float32 for tensor in held)
    assert "device" in inspect.signature(MODULES[name]).parameters
    assert inspect.signature(MODULES[name]).parameters["dtype"].kind is inspect.Parameter.KEYWORD_ONLY
